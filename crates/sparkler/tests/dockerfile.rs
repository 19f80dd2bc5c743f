//! `sparkler image build` of Dockerfiles, from outside. The base image is busybox alone, so that no
//! network is needed.
//!
//! `RUN` steps need a kernel in the cache, as `sparkler run` does; without one, their tests say that
//! they are skipped: `cargo xtask test` pulls one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use image::kernel::{self, Source, pull_busybox};
use image::{Cache, Quiet};

/// Programs of the base image.
const APPLETS: [&str; 16] = [
    "sh", "cat", "echo", "id", "ls", "stat", "sleep", "test", "env", "touch", "chmod", "mktemp",
    "printf", "rm", "dd", "wget",
];

/// A store of the test's own, and a context.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A place with an image `base`; none if busybox or a kernel is missing.
    fn new() -> Option<Self> {
        let cache = Cache::open().unwrap();
        let some = |source| kernel::list(&cache, source).is_ok_and(|list| !list.is_empty());
        let busybox = pull_busybox(&cache, &Quiet).ok();
        let Some(busybox) = busybox.filter(|_| some(Source::Debian) || some(Source::Built)) else {
            eprintln!("SKIPPED: no kernel or no busybox in the cache; run `cargo xtask test`");
            return None;
        };
        let place = Place { folder: tempfile::tempdir().unwrap() };
        let base = place.path("base");
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "home/alice"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        fs::copy(busybox, base.join("bin/busybox")).unwrap();
        fs::set_permissions(base.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        APPLETS.iter().for_each(|name| symlink("busybox", base.join("bin").join(name)).unwrap());
        let users = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:100::/home/alice:/bin/sh\n";
        fs::write(base.join("etc/passwd"), users).unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\nusers:x:100:\nsound:x:29:alice\n").unwrap();
        fs::create_dir(place.path("context")).unwrap();
        let base = base.display().to_string();
        place.check(&["build", &base, "-t", "base", "--owner", "root"], 0, "base:latest", "");
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sparkler"));
        command.arg("image").args(args).env("SPARKLER_DATA", self.path("data"));
        command.stdin(Stdio::null());
        command
    }

    /// Expects the code, and the texts on standard output and error; gives the latter.
    fn check(&self, args: &[&str], code: i32, stdout: &str, stderr: &str) -> String {
        let output = self.command(args).output().unwrap();
        let Output { status, .. } = output;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(status.code(), Some(code), "{args:?}\n{out}{err}");
        assert!(out.contains(stdout), "{args:?}: {stdout:?} is not in {out:?}");
        assert!(err.contains(stderr), "{args:?}: {stderr:?} is not in {err:?}");
        err
    }

    /// Builds the context with this Dockerfile.
    fn build(&self, dockerfile: &str, more: &[&str], code: i32, stderr: &str) -> String {
        self.file("Dockerfile", dockerfile);
        let context = self.path("context").display().to_string();
        let cpu = std::env::var("SPARKLER_TEST_CPU").unwrap_or_else(|_| "soft".to_owned());
        let mut args = vec!["build", &context, "-t", "result", "--cpu", &cpu];
        args.extend(more);
        let stdout = if code == 0 { "result:latest" } else { "" };
        self.check(&args, code, stdout, stderr)
    }

    fn inspect(&self, image: &str) -> serde_json::Value {
        let output = self.command(&["inspect", image]).output().unwrap();
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        list[0].clone()
    }

    /// What debugfs says about the disk of the image.
    fn debugfs(&self, request: &str) -> String {
        let image = self.inspect("result");
        let disk = image["disk"].as_str().unwrap();
        let check = Command::new("/usr/sbin/e2fsck").args(["-fn", disk]).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        let output =
            Command::new("/usr/sbin/debugfs").args(["-R", request, disk]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// No image `result`, and nothing of it in the store's folder for work.
    fn check_nothing_is_left(&self) {
        self.check(&["inspect", "result"], 125, "", "there is no image `result`");
        assert_eq!(fs::read_dir(self.path("data/images/tmp")).unwrap().count(), 0);
        assert!(!self.path("data/images/build-step").exists(), "a failed step was kept");
    }
}

#[test]
fn files_are_copied_without_a_machine() {
    let Some(place) = Place::new() else { return };
    place.file("a.txt", "A");
    place.file("sub/b.txt", "B");
    place.file("sub/skip.o", "no");
    place.file("keep/x.o", "yes");
    place.file(".dockerignore", "**/*.o\n!keep\n");
    symlink("a.txt", place.path("context/link")).unwrap();
    let tar =
        Command::new("tar").arg("-C").arg(place.path("base")).args(["-czf", "-", "etc"]).output();
    place.file("etc.tgz", tar.unwrap().stdout);
    let text = "FROM scratch AS files\nCOPY . /all/\n\
        FROM base\nWORKDIR /work\nCOPY link sub keep ./\nCOPY a.txt renamed\n\
        COPY --chown=alice:sound --chmod=640 *.txt /owned/\nADD etc.tgz /unpacked\n\
        COPY etc.tgz /packed/\nCOPY --from=files /all/a.txt /from-stage\n\
        COPY --from=base /etc/passwd /from-image\nENV A=1\nCOPY <<-EOF /doc\n\tin $A\n\tEOF\n\
        USER alice\nENTRYPOINT [\"/bin/sh\"]\nCMD [\"-c\", \"id\"]\nVOLUME /v\n";
    place.build(text, &[], 0, "[stage 2, 2/9] COPY link sub keep ./");
    let names = |folder: &str| {
        let listing = place.debugfs(&format!("ls -p {folder}"));
        let names = listing.lines().filter_map(|line| line.split('/').nth(5).map(str::to_owned));
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    };
    assert_eq!(names("/work"), ["b.txt", "link", "renamed", "x.o"]);
    assert_eq!(names("/unpacked"), ["etc"]);
    assert_eq!(names("/packed"), ["etc.tgz"]);
    assert_eq!(place.debugfs("cat /work/link"), "A");
    assert_eq!(place.debugfs("cat /from-stage"), "A");
    assert!(place.debugfs("cat /from-image").contains("alice"));
    assert_eq!(place.debugfs("cat /doc"), "in 1\n");
    let owned = place.debugfs("stat /owned/a.txt");
    assert!(
        owned.contains("Mode:  0640") && owned.contains("User:  1000   Group:    29"),
        "{owned}"
    );
    let run = &place.inspect("result")["run"];
    assert_eq!(run["env"], serde_json::json!(["A=1"]));
    assert_eq!(run["entrypoint"], serde_json::json!(["/bin/sh"]));
    assert_eq!((&run["user"], &run["working_dir"]), (&"alice".into(), &"/work".into()));
    assert_eq!(run["volumes"], serde_json::json!(["/v"]));
}

#[test]
fn commands_run_in_machines_once() {
    let Some(place) = Place::new() else { return };
    place.file("in", "1");
    let text = |last: &str| {
        format!(
            "FROM base AS made\nENV GREETING='good day'\nWORKDIR /work\n\
             RUN echo \"$GREETING\" > /tmp/said; echo first-ran\nCOPY in .\n\
             RUN <<E\ncat /tmp/said in\nE\nUSER alice\nRUN id && echo at $PWD, $HOME >&2\n\
             FROM base\nCOPY --from=made /tmp/said /said\n{last}\n"
        )
    };
    let said = place.build(&text("RUN cat /said; touch /end"), &[], 0, "first-ran");
    for expected in
        ["good day\n1", "uid=1000(alice) gid=100(users) groups=29(sound)", "at /work, /home/alice"]
    {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
    assert!(!said.contains("CACHED"), "{said}");
    assert_eq!(place.debugfs("cat /said"), "good day\n");
    let again = place.build(&text("RUN cat /said; touch /end"), &[], 0, "CACHED RUN cat /said");
    assert!(!again.contains("good day\n"), "{again}");
    // Only the last step is another.
    let last = place.build(&text("RUN echo other-ran"), &[], 0, "\nother-ran");
    assert!(!last.contains("\nfirst-ran") && last.contains("CACHED RUN echo"), "{last}");
    // What is copied is another.
    place.file("in", "2");
    let changed = place.build(&text("RUN echo other-ran"), &[], 0, "2");
    assert!(changed.contains("CACHED RUN echo \"$GREETING\""), "{changed}");
    assert!(!changed.contains("CACHED RUN <<E"), "{changed}");
    let none = place.build(&text("RUN echo other-ran"), &["--no-cache"], 0, "\nfirst-ran");
    assert!(!none.contains("CACHED"), "{none}");
    let target = place.build(&text("RUN false"), &["--target", "made"], 0, "[stage 1, 1/");
    assert!(!target.contains("stage 2"), "{target}");
    place.check(&["prune"], 0, " 8 steps of Dockerfiles", "");
}

#[test]
fn what_fails_is_named_with_its_line_and_leaves_nothing() {
    let Some(place) = Place::new() else { return };
    place.file("ignored", "x");
    place.file(".dockerignore", "ignored\n");
    let at = |line: u32, text: &str| format!("context/Dockerfile:{line}: {text}");
    for (text, more, expected) in [
        ("FROM base\nRUNN x", &[][..], at(2, "RUNN: there is no such instruction")),
        ("FROM base\n\nCOPY nothing /", &[], at(3, "COPY nothing /: /nothing: there is no such")),
        ("FROM base\nCOPY ignored /", &[], at(2, "COPY ignored /: /ignored: .dockerignore")),
        ("FROM base\nCOPY --chown=bob Dockerfile /", &[], "the image has no user `bob`".into()),
        ("FROM base\nCOPY Dockerfile /etc/passwd/x", &[], "it is no folder".into()),
        (
            "FROM base\nRUN echo out; exit 3",
            &[],
            at(2, "RUN echo out; exit 3: the command ended with status 3"),
        ),
        ("FROM base\nUSER bob\nRUN id", &[], "there is no user bob in /etc/passwd".into()),
        ("FROM base\nRUN [\"/no\"]", &[], "status 127".into()),
        (
            "FROM base\nRUN sleep 99",
            &["--timeout", "3"],
            at(2, "RUN sleep 99: it was stopped after 3 s"),
        ),
        ("FROM base", &["--target", "x"], "it has no stage `x`".into()),
        ("FROM base", &["--owner", "root"], "--owner cannot be given".into()),
        ("FROM base", &["--cpus", "99"], "--cpus".into()),
    ] {
        place.build(text, more, 125, &expected);
        place.check_nothing_is_left();
    }
}

#[test]
fn an_interrupt_ends_a_build() {
    let Some(place) = Place::new() else { return };
    place.file("Dockerfile", "FROM base\nRUN echo begun; sleep 99\n");
    let context = place.path("context").display().to_string();
    let args = ["build", &context, "-t", "result", "--cpu", "soft"];
    let log = fs::File::create(place.path("log")).unwrap();
    let mut child = place.command(&args).stderr(log).spawn().unwrap();
    for _ in 0..600 {
        if fs::read_to_string(place.path("log")).unwrap().contains("\nbegun") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{}", read(&place.path("log")));
    place.check_nothing_is_left();
}

#[test]
fn a_full_disk_is_named_and_gets_its_room_back() {
    let Some(place) = Place::new() else { return };
    let tmp = place.path("data/images/tmp").display().to_string();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=40M", "none", &tmp]).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a full disk takes root to make");
        return;
    }
    place.file("Dockerfile", "FROM base\nRUN dd if=/dev/zero of=/large bs=1M count=200 && sync\n");
    let context = place.path("context").display().to_string();
    let output = place.command(&["build", &context, "-t", "x", "--cpu", "soft"]).output();
    let left = fs::read_dir(&tmp).map(Iterator::count);
    Command::new("umount").arg(&tmp).status().unwrap();
    let said = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
    assert!(said.contains("Dockerfile:2: RUN dd") && said.contains("disk is full"), "{said}");
    assert_eq!(left.unwrap(), 0);
    place.check_nothing_is_left();
}

/// The environment variable that says that the test's process is in a namespace of its own.
const INSIDE: &str = "SPARKLER_TEST_INSIDE";
/// The host's address in that namespace.
const ADDRESS: &str = "10.99.0.1";

/// A network namespace with a way out that leads nowhere.
struct Namespace(String);

impl Namespace {
    fn new() -> Option<Self> {
        let net = Self(format!("sparkler-passt-{}", std::process::id()));
        let address = format!("{ADDRESS}/24");
        let inside = |arguments: &[&str]| {
            let mut command = Command::new("ip");
            command.args(["-n", &net.0]).args(arguments).output().is_ok_and(|o| o.status.success())
        };
        let made = Command::new("ip").args(["netns", "add", &net.0]).output();
        let made = made.is_ok_and(|output| output.status.success())
            && inside(&["link", "set", "lo", "up"])
            && inside(&["link", "add", "out0", "type", "veth", "peer", "name", "out1"])
            && inside(&["address", "add", &address, "dev", "out0"])
            && inside(&["link", "set", "out0", "up"])
            && inside(&["link", "set", "out1", "up"])
            && inside(&["route", "add", "default", "via", "10.99.0.2"]);
        made.then_some(net)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}

#[test]
fn steps_reach_the_network_unless_told_otherwise() {
    if std::env::var_os(INSIDE).is_some() {
        return steps_reach_the_network();
    }
    let installed = Command::new("passt").arg("--version").output().is_ok();
    let Some(net) = Namespace::new().filter(|_| installed) else {
        eprintln!("SKIPPED: needs passt, and root to make a namespace; run `cargo xtask test`");
        return;
    };
    let mut again = Command::new("ip");
    again.args(["netns", "exec", &net.0]).arg(std::env::current_exe().unwrap());
    again.args(["--exact", "steps_reach_the_network_unless_told_otherwise", "--nocapture"]);
    let output = again.env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// In the namespace.
fn steps_reach_the_network() {
    let Some(place) = Place::new() else { return };
    let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = BufReader::new(stream.try_clone().unwrap()).lines();
            request.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the host\n").unwrap();
        }
    });
    let text = format!(
        "FROM base\nRUN wget -qO- {url} && cat /etc/resolv.conf\n\
         RUN --network=none wget -T 3 -qO- {url} || echo unreachable\n"
    );
    let said = place.build(&text, &[], 0, "\nfrom the host\nnameserver 10.0.2.3\n");
    assert!(said.contains("\nunreachable") && said.matches("from the host").count() == 1, "{said}");
    assert!(place.debugfs("stat /etc/resolv.conf").contains("Size: 0\n"));
    place.build(&text, &["--network", "none", "--no-cache"], 125, "Dockerfile:2: RUN wget");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
