//! A Dockerfile, a `.dockerignore` and build arguments, from text to plan.

use image::dockerfile::outline::{Wanted, outline};
use image::dockerfile::parse::parse;
use image::dockerfile::pattern::Ignore;
use image::dockerfile::plan::plan;

/// Words that a random text would hardly ever have.
const WORDS: [&str; 28] = [
    "FROM scratch\n",
    "FROM a AS b\n",
    "ARG A=1\n",
    "ARG A\n",
    "ENV B=$A ",
    "RUN ",
    "COPY ",
    "--from=b ",
    "ADD ",
    "WORKDIR ",
    "USER ",
    "CMD [\"x\"]\n",
    "SHELL [\"s\"]\n",
    "EXPOSE 80-",
    "LABEL ",
    "VOLUME ",
    "<<E ",
    "<<-'E' ",
    "\nE\n",
    "${A:-",
    "${A:+",
    "}",
    "\\\n",
    "\"",
    "'",
    "--chmod=",
    "# escape=`\n",
    "[a-z]*/../",
];

/// Whatever the bytes say, this ends, and soon.
pub fn run(data: &[u8]) {
    let mut text = String::new();
    for byte in data {
        match WORDS.get(usize::from(*byte) - 128 * usize::from(*byte > 127)) {
            Some(word) if *byte > 127 => text.push_str(word),
            Some(_) | None => text.push(char::from(*byte)),
        }
    }
    if let Ok(ignore) = Ignore::parse(&text) {
        ignore.matches("a/b/c.o");
        ignore.matches(&text);
    }
    let Ok(file) = parse(&text) else { return };
    let arguments = [("A".to_owned(), text.chars().take(40).collect())].into();
    let wanted = Wanted { arguments, target: None };
    let Ok(outline) = outline(&file, &wanted) else { return };
    if let Ok(plan) = plan(&file, &outline, &wanted, &|_| None) {
        let line = |line: u32| line as usize <= text.lines().count() + 1;
        assert!(plan.stages.iter().all(|stage| line(stage.line)));
        assert!(plan.stages.iter().flat_map(|stage| &stage.steps).all(|step| line(step.line)));
    }
}
