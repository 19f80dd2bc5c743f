//! What the instructions of a Dockerfile say: typed, but with their variables not yet expanded.

use super::Problem;
use super::lines::{self, Document, Line, heading};
use super::words::{Escape, raw_words};

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The instructions, in order.
    pub instructions: Vec<Located>,
    /// The character that escapes in it.
    pub escape: Escape,
    /// What is left out.
    pub warnings: Vec<Problem>,
}

/// An instruction, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The line where it begins.
    pub line: u32,
    /// It, as it is written, in one line.
    pub text: String,
    /// What it says.
    pub instruction: Instruction,
}

/// What an instruction says. Texts have quotes and variables in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// Begins a stage.
    From {
        /// For which platform.
        platform: Option<String>,
        /// What it begins with.
        image: String,
        /// Its name.
        name: Option<String>,
    },
    /// Variables of the build, with what they are by default.
    Arg(Vec<(String, Option<String>)>),
    /// Variables of the image.
    Env(Vec<(String, String)>),
    /// Labels.
    Label(Vec<(String, String)>),
    /// Runs a command.
    Run {
        /// It.
        command: Command,
        /// Whether it may reach the network, where it says so.
        network: Option<bool>,
    },
    /// Copies files.
    Copy(Transfer),
    /// Copies files, and unpacks archives.
    Add(Transfer),
    /// The folder for what follows.
    Workdir(String),
    /// The user for what follows.
    User(String),
    /// What the image runs.
    Entrypoint(Command),
    /// With which arguments.
    Cmd(Command),
    /// What runs commands that are no lists.
    Shell(Vec<String>),
    /// Ports.
    Expose(Vec<String>),
    /// Folders that are kept.
    Volume(Vec<String>),
    /// The signal that ends it.
    StopSignal(String),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A list: program and arguments.
    List(Vec<String>),
    /// A text for the shell, with its here-documents behind it.
    Shell(String),
    /// A here-document that is all of the command.
    Script(String),
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transfer {
    /// From which stage or image; from the context if none is given.
    pub from: Option<String>,
    /// The new owner.
    pub chown: Option<String>,
    /// The new mode.
    pub chmod: Option<String>,
    /// What is copied.
    pub sources: Vec<Given>,
    /// Where to.
    pub to: String,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// What is at a path.
    Path(String),
    /// A here-document, as a file.
    Document(Document),
}

/// Reads a Dockerfile.
pub fn parse(text: &str) -> Result<Dockerfile, Problem> {
    let (lines, escape) = lines::split(text)?;
    let mut file = Dockerfile { instructions: Vec::new(), escape, warnings: Vec::new() };
    for line in lines {
        let parsed = Parser { escape, line: &line }.instruction();
        match parsed.map_err(|why| Problem::new(line.number, format!("{}: {why}", line.name)))? {
            Some(instruction) => {
                check_order(&file, &instruction, &line)?;
                let text = format!("{} {}", line.name, line.rest);
                file.instructions.push(Located { line: line.number, text, instruction });
            }
            None => {
                let why = format!("{} means nothing to a machine; it is left out", line.name);
                file.warnings.push(Problem::new(line.number, why));
            }
        }
    }
    match file.instructions.iter().any(|it| matches!(it.instruction, Instruction::From { .. })) {
        true => Ok(file),
        false => Err(Problem::new(0, "there is no FROM in it")),
    }
}

/// Only `ARG` may come before the first `FROM`.
fn check_order(file: &Dockerfile, next: &Instruction, line: &Line) -> Result<(), Problem> {
    let begun =
        file.instructions.iter().any(|it| matches!(it.instruction, Instruction::From { .. }));
    match next {
        Instruction::From { .. } | Instruction::Arg(_) => Ok(()),
        _ if begun => Ok(()),
        _ => Err(Problem::new(line.number, format!("{} must come after FROM", line.name))),
    }
}

type Parsed<T> = Result<T, String>;

struct Parser<'a> {
    escape: Escape,
    line: &'a Line,
}

impl<'a> Parser<'a> {
    /// The instruction; none if it is one that is left out.
    fn instruction(&self) -> Parsed<Option<Instruction>> {
        let line = self.line;
        Ok(Some(match line.name.as_str() {
            "FROM" => self.from()?,
            "ARG" => self.arg()?,
            "ENV" => Instruction::Env(self.pairs()?),
            "LABEL" => Instruction::Label(self.pairs()?),
            "RUN" => self.run()?,
            "COPY" => Instruction::Copy(self.transfer(&["from", "chown", "chmod", "link"])?),
            "ADD" => Instruction::Add(self.add()?),
            "WORKDIR" => Instruction::Workdir(self.one()?),
            "USER" => Instruction::User(self.one()?),
            "ENTRYPOINT" => Instruction::Entrypoint(self.command(&line.rest)),
            "CMD" => Instruction::Cmd(self.command(&line.rest)),
            "SHELL" => match list(&line.rest) {
                Some(words) if !words.is_empty() => Instruction::Shell(words),
                Some(_) | None => return Err("it needs a list, as [\"/bin/sh\", \"-c\"]".into()),
            },
            "EXPOSE" => Instruction::Expose(self.some(self.words())?),
            "VOLUME" => {
                Instruction::Volume(self.some(list(&line.rest).unwrap_or_else(|| self.words()))?)
            }
            "STOPSIGNAL" => Instruction::StopSignal(self.one()?),
            "HEALTHCHECK" | "MAINTAINER" => return Ok(None),
            "ONBUILD" => return Err("it is not supported; write the instruction itself".into()),
            _ => {
                return Err("there is no such instruction".into());
            }
        }))
    }

    fn from(&self) -> Parsed<Instruction> {
        let (flags, rest) = self.flags(&["platform"])?;
        let platform = flags.get("platform").map(str::to_owned);
        let words = raw_words(rest, self.escape);
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, word, name] if word.eq_ignore_ascii_case("as") => (image, Some(*name)),
            _ => return Err("write it as FROM IMAGE, or as FROM IMAGE AS NAME".into()),
        };
        if let Some(name) = name {
            let usual = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
            if !begins || !name.chars().all(usual) || name.eq_ignore_ascii_case("scratch") {
                return Err(format!("`{name}` is no name for a stage"));
            }
        }
        let name = name.map(str::to_ascii_lowercase);
        Ok(Instruction::From { platform, image: (*image).to_owned(), name })
    }

    fn arg(&self) -> Parsed<Instruction> {
        let mut variables = Vec::new();
        for word in self.some(raw_words(&self.line.rest, self.escape))? {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word, None),
            };
            variables.push((variable(name)?.to_owned(), value));
        }
        Ok(Instruction::Arg(variables))
    }

    /// `NAME=VALUE ...`, or `NAME` and a value that is the rest of the line.
    fn pairs(&self) -> Parsed<Vec<(String, String)>> {
        let words = self.some(raw_words(&self.line.rest, self.escape))?;
        let first = words.first().copied().unwrap_or_default();
        if !first.contains('=') {
            let (name, value) = self
                .line
                .rest
                .split_once(char::is_whitespace)
                .ok_or_else(|| format!("`{first}` has no value; write {first}=VALUE"))?;
            return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
        }
        let pair = |word: &str| match word.split_once('=') {
            Some(("", _)) => Err(format!("`{word}` has no name")),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("`{word}` is not of the form NAME=VALUE")),
        };
        words.into_iter().map(pair).collect()
    }

    fn run(&self) -> Parsed<Instruction> {
        let (flags, rest) = self.flags(&["network"])?;
        let network = match flags.get("network") {
            None | Some("default") => None,
            Some("none") => Some(false),
            Some(other) => return Err(format!("--network={other} is not supported")),
        };
        let only = raw_words(rest, self.escape).as_slice() == [rest] && heading(rest).is_some();
        let command = match self.line.documents.as_slice() {
            [] => self.command(rest),
            [document] if only => Command::Script(text_of(document)),
            documents => {
                let mut text = format!("{rest}\n");
                for document in documents {
                    text.push_str(&format!("{}{}\n", document.text, document.name));
                }
                Command::Shell(text)
            }
        };
        match &command {
            Command::List(words) if words.is_empty() => Err("a command is missing".into()),
            Command::Shell(text) if text.is_empty() => Err("a command is missing".into()),
            Command::List(_) | Command::Shell(_) | Command::Script(_) => {
                Ok(Instruction::Run { command, network })
            }
        }
    }

    fn add(&self) -> Parsed<Transfer> {
        let transfer = self.transfer(&["chown", "chmod", "link"])?;
        for source in &transfer.sources {
            let Given::Path(path) = source else { continue };
            let remote = ["http://", "https://", "ftp://", "git://", "git@"];
            if remote.iter().any(|start| path.starts_with(start)) || path.ends_with(".git") {
                return Err(format!(
                    "`{path}` is not local, which is not supported; fetch it in a RUN, or before"
                ));
            }
        }
        Ok(transfer)
    }

    fn transfer(&self, known: &[&str]) -> Parsed<Transfer> {
        let (flags, rest) = self.flags(known)?;
        let mut words = match list(rest) {
            Some(words) => words,
            None => raw_words(rest, self.escape).into_iter().map(str::to_owned).collect(),
        };
        let to = words.pop().filter(|_| !words.is_empty());
        let to = to.ok_or("it needs one source or more, and a destination")?;
        let mut documents = self.line.documents.iter();
        let sources = words.into_iter().map(|word| match heading(&word) {
            Some(_) => documents.next().map(|document| Given::Document(document.clone())),
            None => Some(Given::Path(word)),
        });
        let owned = |name| flags.get(name).map(str::to_owned);
        Ok(Transfer {
            from: owned("from"),
            chown: owned("chown"),
            chmod: owned("chmod"),
            sources: sources.collect::<Option<_>>().ok_or("a here-document is missing")?,
            to,
        })
    }

    fn command(&self, text: &str) -> Command {
        match list(text) {
            Some(words) => Command::List(words),
            None => Command::Shell(text.to_owned()),
        }
    }

    /// The words that begin with `--`, and what follows them.
    fn flags(&self, known: &[&str]) -> Parsed<(Flags<'a>, &'a str)> {
        let mut flags = Flags::default();
        let mut rest = self.line.rest.as_str();
        while let Some(text) = rest.strip_prefix("--") {
            let word = raw_words(text, self.escape).first().copied().unwrap_or_default();
            if text.starts_with(char::is_whitespace) || word.is_empty() {
                // A `--` alone ends them.
                rest = text.trim_start();
                break;
            }
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if !known.contains(&name) {
                return Err(format!("--{name} is not supported"));
            }
            if flags.get(name).is_some() {
                return Err(format!("--{name} is there twice"));
            }
            if value.is_empty() && name != "link" {
                return Err(format!("--{name} needs a value"));
            }
            flags.0.push((name, value));
            rest = text[word.len()..].trim_start();
        }
        Ok((flags, rest))
    }

    fn words(&self) -> Vec<String> {
        raw_words(&self.line.rest, self.escape).into_iter().map(str::to_owned).collect()
    }

    fn some<T>(&self, words: Vec<T>) -> Parsed<Vec<T>> {
        match words.is_empty() {
            true => Err("it needs an argument".into()),
            false => Ok(words),
        }
    }

    /// All of the line as one argument.
    fn one(&self) -> Parsed<String> {
        match self.line.rest.as_str() {
            "" => Err("it needs an argument".into()),
            rest => Ok(rest.to_owned()),
        }
    }
}

#[derive(Default)]
struct Flags<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Flags<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// A JSON list of strings, if it is one; anything else is for the shell.
fn list(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn variable(name: &str) -> Parsed<&str> {
    let usual = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = !name.is_empty() && name.chars().all(usual);
    match named && !name.starts_with(|c: char| c.is_ascii_digit()) {
        true => Ok(name),
        false => Err(format!("`{name}` is no name for a variable")),
    }
}

fn text_of(document: &Document) -> String {
    document.text.clone()
}
