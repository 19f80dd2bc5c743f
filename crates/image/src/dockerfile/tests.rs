//! Texts and what they mean, in tables.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::outline::{Base, Wanted, outline};
use super::parse::{Command, Instruction, parse};
use super::pattern::{Ignore, matches};
use super::plan::{Action, Exec, Plan, Put, Source, plan};
use super::words::{Escape, expand, raw_words};
use crate::oci::manifest::Run;

fn planned(text: &str, wanted: &Wanted) -> Result<Plan, String> {
    let failed = |problem: super::Problem| format!("{}: {}", problem.line, problem.why);
    let file = parse(text).map_err(failed)?;
    let outline = outline(&file, wanted).map_err(failed)?;
    let base = |name: &str| {
        let env = vec!["PATH=/base".to_owned()];
        let run = Run { env, cmd: vec!["sh".into()], user: "bob".into(), ..Run::default() };
        (name == "base").then_some(run)
    };
    plan(&file, &outline, wanted, &base).map_err(failed)
}

fn ok(text: &str) -> Plan {
    planned(text, &Wanted::default()).unwrap_or_else(|why| panic!("{text}\n{why}"))
}

fn given(pairs: &[(&str, &str)]) -> Wanted {
    let arguments = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Wanted { arguments, target: None }
}

/// The commands of all steps that run one.
fn execs(plan: &Plan) -> Vec<&Exec> {
    let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
    steps
        .filter_map(|step| match &step.action {
            Action::Run(exec) => Some(exec),
            Action::Put(_) | Action::Folder(_) => None,
        })
        .collect()
}

fn puts(plan: &Plan) -> Vec<&Put> {
    let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
    steps
        .filter_map(|step| match &step.action {
            Action::Put(put) => Some(put),
            Action::Run(_) | Action::Folder(_) => None,
        })
        .collect()
}

#[test]
fn variables() {
    let values = |name: &str| match name {
        "a" => Some("A".to_owned()),
        "empty" => Some(String::new()),
        _ => None,
    };
    for (text, expected) in [
        ("plain", Ok("plain")),
        ("$a${a}-$b.", Ok("AA-.")),
        (r#""$a" '$a' \$a \\"#, Ok(r"A $a $a \")),
        (r#""a\"b\c""#, Ok(r#"a"b\c"#)),
        ("${b:-x $a}${empty:-y}${empty-z}", Ok("x Ay")),
        ("${a:+yes}${b:+no}${empty+set}", Ok("yesset")),
        ("${b:-${c:-${a}}}", Ok("A")),
        ("${b:-'}'}", Ok("}")),
        ("$", Ok("$")),
        ("$1a", Ok("a")),
        ("${b:?no b}", Err("b: no b")),
        ("${b?}", Err("b: it has no value")),
        ("${a", Err("closing brace")),
        ("${}", Err("a name is missing")),
        ("${a:x}", Err("behind the colon")),
        ("${a%x}", Err("not supported")),
        ("'open", Err("quote '")),
        ("\"open", Err("quote \"")),
        ("${b:-x", Err("closing brace")),
    ] {
        match (expand(text, Escape::Backslash, &values), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
        }
    }
    assert_eq!(expand("C:\\x `$a", Escape::Backquote, &values).unwrap(), "C:\\x $a");
    let bomb = "${b:-".repeat(1000);
    assert!(expand(&bomb, Escape::Backslash, &values).is_err());
    assert_eq!(raw_words(r#"a "b c"  d\ e 'f " g'"#, Escape::Backslash).len(), 4);
}

#[test]
fn patterns() {
    for (pattern, name, expected) in [
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abbd", false),
        ("*.t?t", "x.txt", true),
        ("[a-c]x", "bx", true),
        ("[^a-c]x", "bx", false),
        ("[]]", "]", true),
        (r"\*", "*", true),
        (r"\*", "x", false),
        ("?", "\u{e9}", true),
        ("a", "ab", false),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
    let long = "*a".repeat(40);
    assert!(!matches(&long, &"a".repeat(39)));
}

#[test]
fn ignored_files() {
    let ignore = |text: &str| Ignore::parse(text).unwrap();
    for (text, path, expected) in [
        ("*.o", "x.o", true),
        ("*.o", "sub/x.o", false),
        ("**/*.o", "sub/deep/x.o", true),
        ("**/*.o", "x.o", true),
        ("node_modules", "node_modules/a/b", true),
        ("/build/", "build", true),
        ("# x\n\n", "x", false),
        ("*\n!src", "src/main.c", false),
        ("*\n!src", "other", true),
        ("*.md\n!README.md", "README.md", false),
        ("!README.md\n*.md", "README.md", true),
        ("a/**/z", "a/z", true),
        ("a/**/z", "a/b/c/z/more", true),
        ("../x", "x", true),
        (".", "x", false),
    ] {
        assert_eq!(ignore(text).matches(path), expected, "{text:?} {path}");
    }
    assert_eq!(Ignore::parse("ok\n[a").unwrap_err().0, 2);
}

#[test]
fn lines_go_on() {
    let plan = ok("# syntax=docker/dockerfile:1\n\
        # a comment\n\
        FROM scratch\n\
        RUN one \\\n  # between\n\n  two \\\n three\n\
        run\tlower\n");
    let commands: Vec<&str> = execs(&plan).iter().map(|exec| &*exec.command[2]).collect();
    assert_eq!(commands, ["one   two  three", "lower"]);
    assert_eq!(plan.stages[0].steps[0].line, 4);
    let plan = ok("# escape=`\nFROM scratch\nRUN one `\n two\\\nRUN x");
    assert_eq!(execs(&plan)[0].command[2], "one  two\\");
}

#[test]
fn here_documents() {
    let plan = ok("FROM scratch\nENV who=you\n\
        RUN <<EOF\necho $who\nFROM nothing\nEOF\n\
        RUN <<-'A' cat >/x && <<B cat\n\ta\n\tA\nb\nB\n\
        RUN <<\"X\"\n#!/usr/bin/env python3\nprint('it')\nX\n\
        COPY <<one <<'two' /to/\nhello $who\none\nhello $who\ntwo\n");
    let commands: Vec<&str> = execs(&plan).iter().map(|exec| &*exec.command[2]).collect();
    assert_eq!(commands[0], "echo $who\nFROM nothing\n");
    assert_eq!(commands[1], "<<-'A' cat >/x && <<B cat\na\nA\nb\nB\n");
    assert!(commands[2].contains(r"print('\''it'\'')"), "{}", commands[2]);
    let text = |name: &str, text: &str| Source::Text(name.into(), text.into());
    let expected = [text("one", "hello you\n"), text("two", "hello $who\n")];
    assert_eq!(puts(&plan)[0].sources, expected);
}

#[test]
fn environments() {
    let text = "ARG V=1\nARG W=${V}2\nFROM base\nARG V\nARG W=3\nARG none\nENV a=$V b=$a c=\"x y\"\n\
        ENV old style $a\nARG a=9\nRUN x\nENV a=2\nRUN [\"y\", \"$a\"]\n";
    let plan = ok(text);
    let execs = execs(&plan);
    let env = ["PATH=/base", "a=1", "b=", "c=x y", "old=style 1", "V=1", "W=3"];
    assert_eq!(execs[0].env, env);
    assert_eq!(execs[0].command, ["/bin/sh", "-c", "x"]);
    assert_eq!((&*execs[0].user, &*execs[0].folder), ("bob", "/"));
    assert_eq!(execs[1].command, ["y", "$a"]);
    assert!(execs[1].env.contains(&"a=2".to_owned()));
    let plan = planned(text, &given(&[("W", "7"), ("http_proxy", "p"), ("Q", "")])).unwrap();
    let exec = self::execs(&plan)[0];
    assert!(exec.env.contains(&"W=7".to_owned()) && !exec.env.iter().any(|e| e.contains("proxy")));
    assert_eq!(exec.proxies, ["http_proxy=p"]);
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].why.contains("--build-arg Q"));
}

#[test]
fn what_an_image_runs() {
    let plan = ok("FROM base\nENTRYPOINT [\"/e\"]\nWORKDIR /a\nWORKDIR b/../c\nUSER 1:2\n\
        EXPOSE 80 53/udp 8000-8001\nLABEL x=1 \"y\"=\"2 3\"\nVOLUME /v\nVOLUME [\"w\"]\nSTOPSIGNAL 9\n\
        HEALTHCHECK NONE\n");
    let run = &plan.stages[0].run;
    assert_eq!((run.entrypoint.clone(), run.cmd.len()), (vec!["/e".to_owned()], 0));
    assert_eq!((&*run.working_dir, &*run.user, &*run.stop_signal), ("/a/c", "1:2", "9"));
    assert_eq!(run.exposed_ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]);
    assert_eq!(run.volumes, ["/v", "/a/c/w"]);
    let labels = BTreeMap::from([("x".into(), "1".into()), ("y".into(), "2 3".into())]);
    assert_eq!(run.labels, labels);
    assert_eq!(plan.warnings[0].line, 11);
    let shell = ok("FROM base\nSHELL [\"/bin/bash\", \"-c\"]\nCMD echo $x\nRUN y\n");
    assert_eq!(shell.stages[0].run.cmd, ["/bin/bash", "-c", "echo $x"]);
    assert_eq!(execs(&shell)[0].command[0], "/bin/bash");
    let own = ok("FROM base\nCMD [\"c\"]\nENTRYPOINT e\n");
    assert_eq!(own.stages[0].run.cmd, ["c"]);
}

#[test]
fn stages() {
    let text = "ARG B=base\nFROM $B AS One\nRUN 1\nFROM other\nRUN 2\nFROM one AS three\nRUN 3\n\
        FROM scratch\nCOPY --from=THREE /x /y\nCOPY --from=img /z /\n";
    let plan = ok(text);
    let of: Vec<(usize, &Base)> = plan.stages.iter().map(|s| (s.index, &s.base)).collect();
    let base = Base::Image("base".into());
    assert_eq!(of, [(0, &base), (2, &Base::Stage(0)), (3, &Base::Scratch)]);
    assert_eq!(puts(&plan)[0].from, Some(Base::Stage(2)));
    assert_eq!(puts(&plan)[1].from, Some(Base::Image("img".into())));
    let target = |name: &str| {
        planned(text, &Wanted { target: Some(name.into()), ..Wanted::default() })
            .map(|plan| plan.stages.len())
    };
    assert_eq!((target("one"), target("1"), target("three")), (Ok(1), Ok(1), Ok(2)));
    assert!(target("four").unwrap_err().contains("no stage `four`"));
}

#[test]
fn copies() {
    let plan = ok("FROM base\nWORKDIR /w\nCOPY --chown=a:b --chmod=0750 --link x ../y/* .\n\
        ADD [\"a b\", \"/to/\"]\nCOPY f g\n");
    let puts = puts(&plan);
    let path = |parts: &[&str]| Source::Path(parts.iter().map(|&part| part.into()).collect());
    assert_eq!(puts[0].sources, [path(&["x"]), path(&["y", "*"])]);
    assert_eq!((&*puts[0].to, puts[0].mode), ("/w/", Some(0o750)));
    assert_eq!(puts[0].owner.as_deref(), Some("a:b"));
    assert_eq!(
        (&*puts[1].to, puts[1].unpack, &puts[1].sources[0]),
        ("/to/", true, &path(&["a b"]))
    );
    assert_eq!((&*puts[2].to, puts[2].unpack), ("/w/g", false));
}

#[test]
fn what_is_refused_and_where() {
    for (text, expected) in [
        ("", "0: there is no FROM"),
        ("RUN x", "1: RUN must come after FROM"),
        ("FROM", "1: FROM: write it as FROM IMAGE"),
        ("FROM a b c", "1: FROM: write it"),
        ("FROM a AS 1x", "1: FROM: `1x` is no name"),
        ("FROM a AS x\nFROM b AS X", "2: FROM: another stage"),
        ("FROM $x", "1: FROM: the name of the image is empty"),
        ("FROM --platform=linux/arm64 a", "1: FROM: the platform linux/arm64"),
        ("FROM a\nFRUM b", "2: FRUM: there is no such instruction"),
        ("FROM a\n\nONBUILD RUN x", "3: ONBUILD: it is not supported"),
        ("FROM a\nRUN", "2: RUN: a command is missing"),
        ("FROM a\nRUN []", "2: RUN: a command is missing"),
        ("FROM a\nRUN --mount=type=cache x", "2: RUN: --mount is not supported"),
        ("FROM a\nRUN --network=host x", "2: RUN: --network=host"),
        ("FROM a\nRUN <<E\nx", "2: the here-document `E` has no line `E`"),
        ("FROM a\nCOPY x", "2: COPY: it needs one source"),
        ("FROM a\nCOPY a b c", "2: COPY: with several sources"),
        ("FROM a\nCOPY --parents a b/", "2: COPY: --parents is not supported"),
        ("FROM a\nCOPY --from=x --from=y a b", "2: COPY: --from is there twice"),
        ("FROM a\nCOPY --chmod=9 a b", "2: COPY: --chmod=9 is no mode"),
        ("FROM a\nCOPY [a- y", "2: COPY: the pattern `[a-` does not end"),
        ("FROM a\nCOPY --from=scratch a b", "2: COPY: there is nothing to copy"),
        ("FROM a\nADD https://x/y /z", "2: ADD: `https://x/y` is not local"),
        ("FROM a\nADD --checksum=x a b", "2: ADD: --checksum is not supported"),
        ("FROM a\nENV x", "2: ENV: `x` has no value"),
        ("FROM a\nENV x=1 y", "2: ENV: `y` is not of the form"),
        ("FROM a\nENV =1", "2: ENV: `=1` has no name"),
        ("FROM a\nARG 1=2", "2: ARG: `1` is no name"),
        ("FROM a\nEXPOSE 99999", "2: EXPOSE: `99999` is no port"),
        ("FROM a\nSHELL /bin/sh", "2: SHELL: it needs a list"),
        ("FROM a\nUSER $x", "2: USER: `$x` is empty"),
        ("FROM a\nWORKDIR ${x", "2: WORKDIR: ${x has no closing brace"),
        ("# escape=x\nFROM a", "1: `x` cannot escape"),
    ] {
        match planned(text, &Wanted::default()) {
            Err(found) => assert!(found.starts_with(expected), "{text:?}: {found}"),
            Ok(plan) => panic!("{text:?}: {plan:?}"),
        }
    }
}

#[test]
fn a_command_that_is_almost_a_list_is_for_the_shell() {
    let file = parse("FROM a\nCMD [ 'x' ]").unwrap();
    let expected = Instruction::Cmd(Command::Shell("[ 'x' ]".into()));
    assert_eq!(file.instructions[1].instruction, expected);
}

/// Texts of characters that mean something to the expansion.
fn texts() -> impl Strategy<Value = String> {
    const PIECES: [&str; 13] =
        ["$", "{", "}", ":-", ":+", "a", "b1", "'", "\"", "\\", " ", "\u{e9}", "\n"];
    vec(select(&PIECES[..]), 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn quoting_is_undone(text in texts()) {
        let quoted = format!("'{}'", text.replace('\'', r"'\''"));
        let none = |_: &str| None;
        prop_assert_eq!(expand(&quoted, Escape::Backslash, &none), Ok(text.clone()));
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert_eq!(expand(&escaped, Escape::Backslash, &none), Ok(text));
    }

    #[test]
    fn a_line_may_be_cut_anywhere(text in "[a-z ]{1,30}", at in 0usize..30) {
        let at = at.min(text.len());
        let (one, two) = text.split_at(at);
        prop_assume!(!one.trim().is_empty() && !two.trim().is_empty());
        let whole = parse(&format!("FROM x\nRUN {text}")).unwrap();
        let cut = parse(&format!("FROM x\nRUN {one}\\\n{two}")).unwrap();
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn patterns_without_stars_fit_themselves(name in "[a-z.*?\\[]{0,12}") {
        let literal: String = name.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert!(matches(&literal, &name));
        prop_assert!(matches(&"?".repeat(name.chars().count()), &name));
        let (around, longer) = (format!("*{literal}*"), format!("x{name}y"));
        prop_assert!(matches(&around, &longer));
    }

    #[test]
    fn any_text_is_a_plan_or_a_problem(text in texts()) {
        for line in ["ENV a=", "COPY ", "RUN <<", "LABEL ", "FROM ", "ADD --chown=", "EXPOSE "] {
            let _ = planned(&format!("FROM base\n{line}{text}\n"), &Wanted::default());
        }
    }
}
