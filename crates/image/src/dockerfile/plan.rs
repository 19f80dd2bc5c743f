//! What is to be done: the stages that are needed, and their steps with all variables expanded.
//!
//! ```text
//! ARG before FROM --> names of base images --> which stages are needed --> steps of each
//! ```
//!
//! Stages that the wanted one does not need are left out, with their base images.

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use super::parse::{Command, Dockerfile, Given, Instruction, Located, Transfer};
use super::pattern::{clean, is_pattern_sound};
use super::words::{self, Escape};
use crate::oci::manifest::Run;

/// What runs a command that is a text, where no `SHELL` says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Where programs are looked for, in images that do not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables that every `RUN` has if the user gives them, and that change no result.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// Variables that an `ARG` without a value gets.
const PLATFORM: [(&str, &str); 8] = [
    ("TARGETPLATFORM", "linux/amd64"),
    ("TARGETOS", "linux"),
    ("TARGETARCH", "amd64"),
    ("TARGETVARIANT", ""),
    ("BUILDPLATFORM", "linux/amd64"),
    ("BUILDOS", "linux"),
    ("BUILDARCH", "amd64"),
    ("BUILDVARIANT", ""),
];

/// What the user says besides the Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Values of `ARG`s.
    pub arguments: BTreeMap<String, String>,
    /// The stage that becomes the image, by name or number; the last one if none is given.
    pub target: Option<String>,
}

/// Which stages there are to do, and with what they begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// All stages; those that are not needed have nothing.
    stages: Vec<Part>,
    /// The one that becomes the image.
    target: usize,
    globals: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    name: Option<String>,
    base: Base,
    line: u32,
    instructions: std::ops::Range<usize>,
    needed: bool,
}

/// What a stage begins with, or files are copied from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// Another stage, by its index.
    Stage(usize),
    /// An image, by the name as it is written.
    Image(String),
}

/// All that is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The stages that are needed, each behind those that it needs.
    pub stages: Vec<Stage>,
    /// What seems wrong, but is no reason to stop.
    pub warnings: Vec<Problem>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its index in the Dockerfile, by which others refer to it.
    pub index: usize,
    /// What it begins with.
    pub base: Base,
    /// The line of its `FROM`.
    pub line: u32,
    /// What is done.
    pub steps: Vec<Step>,
    /// What an image of it runs.
    pub run: Run,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line of its instruction.
    pub line: u32,
    /// The instruction as it is written.
    pub text: String,
    /// What is done.
    pub action: Action,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs a command in a machine.
    Run(Exec),
    /// Copies files.
    Put(Put),
    /// Makes a folder.
    Folder(String),
}

/// A command with all around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables as `NAME=VALUE`.
    pub env: Vec<String>,
    /// Further variables, which change no result.
    pub proxies: Vec<String>,
    /// Where it runs.
    pub folder: String,
    /// As whom: user and group, as names or numbers, with a colon between; root if empty.
    pub user: String,
    /// Whether it may reach the network.
    pub network: bool,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// From where; from the context if none is given.
    pub from: Option<Base>,
    /// What.
    pub sources: Vec<Source>,
    /// To where, absolute; with a slash at the end if it must be a folder.
    pub to: String,
    /// The new owner, as user and group with a colon between.
    pub owner: Option<String>,
    /// The new mode.
    pub mode: Option<u16>,
    /// Whether archives are unpacked.
    pub unpack: bool,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// What fits a pattern, its parts.
    Path(Vec<String>),
    /// A file with this name and content.
    Text(String, String),
}

/// Finds the stages that are needed.
pub fn outline(file: &Dockerfile, wanted: &Wanted) -> Result<Outline, Problem> {
    let mut globals = BTreeMap::new();
    let mut stages: Vec<Part> = Vec::new();
    for (at, located) in file.instructions.iter().enumerate() {
        let failed = |why| Problem::new(located.line, why);
        match &located.instruction {
            Instruction::Arg(variables) if stages.is_empty() => {
                for (name, default) in variables {
                    let value = argument(name, default, wanted, &globals, file.escape);
                    if let Some(value) = value.map_err(failed)? {
                        globals.insert(name.clone(), value);
                    }
                }
            }
            Instruction::From { platform, image, name } => {
                let values = |name: &str| global(name, &globals);
                let expand = |text| words::expand(text, file.escape, &values).map_err(failed);
                if let Some(platform) = platform.as_deref().map(expand).transpose()?
                    && !["linux/amd64", "linux"].contains(&platform.as_str())
                {
                    return Err(failed(format!("FROM: the platform {platform} is not supported")));
                }
                let image = expand(image)?;
                if image.is_empty() {
                    return Err(failed("FROM: the name of the image is empty".to_owned()));
                }
                if name.is_some() && stages.iter().any(|stage| stage.name == *name) {
                    return Err(failed("FROM: another stage has this name".to_owned()));
                }
                let base = base(&image, &stages, false);
                stages.extend([Part {
                    name: name.clone(),
                    base,
                    line: located.line,
                    instructions: at + 1..at + 1,
                    needed: false,
                }]);
            }
            _ => {}
        }
        if let Some(stage) = stages.last_mut() {
            stage.instructions.end = at + 1;
        }
    }
    let target = target(&stages, wanted)?;
    let mut outline = Outline { stages, target, globals };
    outline.mark(file)?;
    Ok(outline)
}

impl Outline {
    /// The images that the needed stages begin with, with the lines.
    pub fn images(&self) -> Vec<(u32, &str)> {
        let needed = self.stages.iter().filter(|stage| stage.needed);
        needed
            .filter_map(|stage| match &stage.base {
                Base::Image(name) => Some((stage.line, name.as_str())),
                Base::Scratch | Base::Stage(_) => None,
            })
            .collect()
    }

    /// Marks what the target needs. A stage only needs stages before it.
    fn mark(&mut self, file: &Dockerfile) -> Result<(), Problem> {
        self.stages[self.target].needed = true;
        for index in (0..=self.target).rev() {
            if !self.stages[index].needed {
                continue;
            }
            let before = &self.stages[..index];
            let mut needs: Vec<Base> = vec![self.stages[index].base.clone()];
            for located in &file.instructions[self.stages[index].instructions.clone()] {
                if let Instruction::Copy(Transfer { from: Some(from), .. }) = &located.instruction {
                    needs.push(base(from, before, true));
                }
            }
            for need in needs {
                if let Base::Stage(other) = need {
                    self.stages[other].needed = true;
                }
            }
        }
        Ok(())
    }
}

/// What a name in `FROM` or `--from` is for; in `--from` it may be a number.
fn base(name: &str, before: &[Part], numbers: bool) -> Base {
    let lower = name.to_ascii_lowercase();
    if let Some(index) = before.iter().position(|stage| stage.name.as_ref() == Some(&lower)) {
        return Base::Stage(index);
    }
    match name.parse::<usize>() {
        Ok(index) if numbers && index < before.len() => Base::Stage(index),
        Ok(_) | Err(_) if name == "scratch" => Base::Scratch,
        Ok(_) | Err(_) => Base::Image(name.to_owned()),
    }
}

fn target(stages: &[Part], wanted: &Wanted) -> Result<usize, Problem> {
    let Some(last) = stages.len().checked_sub(1) else {
        return Err(Problem::new(0, "there is no FROM in it"));
    };
    let Some(target) = &wanted.target else { return Ok(last) };
    match base(target, stages, true) {
        Base::Stage(index) => Ok(index),
        Base::Scratch | Base::Image(_) => {
            Err(Problem::new(0, format!("it has no stage `{target}`, which --target asks for")))
        }
    }
}

fn global(name: &str, globals: &BTreeMap<String, String>) -> Option<String> {
    globals.get(name).cloned().or_else(|| platform(name))
}

fn platform(name: &str) -> Option<String> {
    PLATFORM.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

/// The value of an `ARG`: what the user gives, else what it is by default.
fn argument(
    name: &str,
    default: &Option<String>,
    wanted: &Wanted,
    known: &BTreeMap<String, String>,
    escape: Escape,
) -> Result<Option<String>, String> {
    if let Some(value) = wanted.arguments.get(name) {
        return Ok(Some(value.clone()));
    }
    let values = |name: &str| known.get(name).cloned();
    default.as_deref().map(|text| words::expand(text, escape, &values)).transpose()
}

/// Plans the needed stages; `base_run` says what the images of [`Outline::images`] run.
pub fn plan(
    file: &Dockerfile,
    outline: &Outline,
    wanted: &Wanted,
    base_run: &dyn Fn(&str) -> Option<Run>,
) -> Result<Plan, Problem> {
    let mut planned: Vec<Stage> = Vec::new();
    let mut shells: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut used: BTreeSet<String> = outline.globals.keys().cloned().collect();
    for (index, part) in outline.stages.iter().enumerate().filter(|(_, part)| part.needed) {
        let run = match &part.base {
            Base::Scratch => Run::default(),
            Base::Stage(other) => run_of(&planned, *other),
            Base::Image(name) => base_run(name).unwrap_or_default(),
        };
        let shell = match &part.base {
            Base::Stage(other) => shells.get(other).cloned(),
            Base::Scratch | Base::Image(_) => None,
        };
        let mut planner = Planner {
            file,
            wanted,
            globals: &outline.globals,
            before: &outline.stages[..index],
            arguments: BTreeMap::new(),
            declared: BTreeSet::new(),
            shell: shell.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec()),
            cmd_is_own: false,
            stage: Stage { index, base: part.base.clone(), line: part.line, steps: vec![], run },
        };
        for located in &file.instructions[part.instructions.clone()] {
            let name = located.text.split(' ').next().unwrap_or_default();
            planner
                .instruction(located)
                .map_err(|why| Problem::new(located.line, format!("{name}: {why}")))?;
        }
        used.append(&mut planner.declared);
        shells.insert(index, planner.shell);
        planned.push(planner.stage);
    }
    let mut warnings = file.warnings.clone();
    let given = wanted.arguments.keys();
    for name in given.filter(|name| !used.contains(*name) && !PROXIES.contains(&name.as_str())) {
        warnings.push(Problem::new(0, format!("--build-arg {name}: no ARG asks for it")));
    }
    Ok(Plan { stages: planned, warnings })
}

fn run_of(planned: &[Stage], index: usize) -> Run {
    let stage = planned.iter().find(|stage| stage.index == index);
    stage.map(|stage| stage.run.clone()).unwrap_or_default()
}

/// Goes through a stage.
struct Planner<'a> {
    file: &'a Dockerfile,
    wanted: &'a Wanted,
    globals: &'a BTreeMap<String, String>,
    before: &'a [Part],
    arguments: BTreeMap<String, String>,
    declared: BTreeSet<String>,
    shell: Vec<String>,
    /// Whether `CMD` is from this stage: an `ENTRYPOINT` forgets that of the base image.
    cmd_is_own: bool,
    stage: Stage,
}

impl Planner<'_> {
    fn instruction(&mut self, located: &Located) -> Result<(), String> {
        let action = match &located.instruction {
            Instruction::From { .. } => return Ok(()),
            Instruction::Arg(variables) => return self.arg(variables),
            Instruction::Env(pairs) => return self.env(pairs),
            Instruction::Label(pairs) => return self.label(pairs),
            Instruction::Shell(words) => {
                self.shell.clone_from(words);
                return Ok(());
            }
            Instruction::Entrypoint(command) => {
                self.stage.run.entrypoint = self.command(command);
                if !self.cmd_is_own {
                    self.stage.run.cmd.clear();
                }
                return Ok(());
            }
            Instruction::Cmd(command) => {
                self.stage.run.cmd = self.command(command);
                self.cmd_is_own = true;
                return Ok(());
            }
            Instruction::User(user) => {
                self.stage.run.user = self.not_empty(user)?;
                return Ok(());
            }
            Instruction::StopSignal(signal) => {
                self.stage.run.stop_signal = self.not_empty(signal)?;
                return Ok(());
            }
            Instruction::Expose(ports) => return self.expose(ports),
            Instruction::Volume(folders) => return self.volume(folders),
            Instruction::Workdir(folder) => {
                let folder = self.not_empty(folder)?;
                let folder = self.absolute(&folder);
                self.stage.run.working_dir.clone_from(&folder);
                Action::Folder(folder)
            }
            Instruction::Run { command, network } => self.run(command, *network),
            Instruction::Copy(transfer) => self.put(transfer, false)?,
            Instruction::Add(transfer) => self.put(transfer, true)?,
        };
        let step = Step { line: located.line, text: located.text.clone(), action };
        self.stage.steps.push(step);
        Ok(())
    }

    fn arg(&mut self, variables: &[(String, Option<String>)]) -> Result<(), String> {
        for (name, default) in variables {
            let known = self.variables();
            let value = argument(name, default, self.wanted, &known, self.file.escape)?;
            let value = value.or_else(|| global(name, self.globals));
            self.declared.insert(name.clone());
            if let Some(value) = value {
                self.arguments.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    fn env(&mut self, pairs: &[(String, String)]) -> Result<(), String> {
        // All of them see what was before the first.
        for (name, value) in self.expand_pairs(pairs)? {
            let env = &mut self.stage.run.env;
            let text = format!("{name}={value}");
            match env.iter_mut().find(|known| name_of(known) == name) {
                Some(known) => *known = text,
                None => env.push(text),
            }
        }
        Ok(())
    }

    fn label(&mut self, pairs: &[(String, String)]) -> Result<(), String> {
        let pairs = self.expand_pairs(pairs)?;
        self.stage.run.labels.extend(pairs);
        Ok(())
    }

    fn expand_pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, String> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let name = self.not_empty(name)?;
            expanded.push((name, self.expand(value)?));
        }
        Ok(expanded)
    }

    fn expose(&mut self, ports: &[String]) -> Result<(), String> {
        for word in ports {
            for port in self.expand(word)?.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let (first, last) = number.split_once('-').unwrap_or((number, number));
                let bad = || format!("`{port}` is no port: write 80, 53/udp or 8000-8010");
                let first: u16 = first.parse().map_err(|_| bad())?;
                let last: u16 = last.parse().map_err(|_| bad())?;
                if first > last || !["tcp", "udp", "sctp"].contains(&protocol) {
                    return Err(bad());
                }
                let ports = &mut self.stage.run.exposed_ports;
                ports.extend((first..=last).map(|number| format!("{number}/{protocol}")));
                ports.sort();
                ports.dedup();
            }
        }
        Ok(())
    }

    fn volume(&mut self, folders: &[String]) -> Result<(), String> {
        for folder in folders {
            let folder = self.not_empty(folder)?;
            let folder = self.absolute(&folder);
            let volumes = &mut self.stage.run.volumes;
            if !volumes.contains(&folder) {
                volumes.push(folder);
            }
        }
        Ok(())
    }

    /// What an image runs, or a machine.
    fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::List(words) => words.clone(),
            Command::Shell(text) if text.is_empty() => Vec::new(),
            Command::Shell(text) | Command::Script(text) => {
                self.shell.iter().chain([text]).cloned().collect()
            }
        }
    }

    fn run(&self, command: &Command, network: Option<bool>) -> Action {
        let run = &self.stage.run;
        let own: BTreeSet<&str> = run.env.iter().map(|text| name_of(text)).collect();
        let mut env = run.env.clone();
        let arguments = self.arguments.iter().filter(|(name, _)| !own.contains(name.as_str()));
        env.extend(arguments.map(|(name, value)| format!("{name}={value}")));
        if !own.contains("PATH") {
            env.push(format!("PATH={PATH}"));
        }
        let given = self.wanted.arguments.iter();
        let proxies = given.filter(|(name, _)| PROXIES.contains(&name.as_str()));
        Action::Run(Exec {
            command: match command {
                Command::Script(text) if text.starts_with("#!") => self.script(text),
                other => self.command(other),
            },
            env,
            proxies: proxies.map(|(name, value)| format!("{name}={value}")).collect(),
            folder: self.folder().to_owned(),
            user: run.user.clone(),
            network: network.unwrap_or(true),
        })
    }

    /// A script that says what reads it becomes a file for as long as it runs.
    fn script(&self, text: &str) -> Vec<String> {
        let quoted = text.replace('\'', r"'\''");
        let shell = format!(
            "f=$(mktemp) && printf %s '{quoted}' >\"$f\" && chmod 700 \"$f\" && {{ \"$f\"; \
             status=$?; rm -f \"$f\"; exit \"$status\"; }}"
        );
        SHELL.map(str::to_owned).into_iter().chain([shell]).collect()
    }

    fn put(&self, transfer: &Transfer, unpack: bool) -> Result<Action, String> {
        let mut sources = Vec::with_capacity(transfer.sources.len());
        for given in &transfer.sources {
            sources.push(match given {
                Given::Path(path) => {
                    let parts = clean(&self.not_empty(path)?);
                    if let Some(part) = parts.iter().find(|part| !is_pattern_sound(part)) {
                        return Err(format!("the pattern `{part}` does not end"));
                    }
                    Source::Path(parts)
                }
                Given::Document(document) => {
                    let values = |name: &str| self.value(name);
                    let text = match document.expand {
                        true => words::expand_document(&document.text, self.file.escape, &values)?,
                        false => document.text.clone(),
                    };
                    Source::Text(document.name.clone(), text)
                }
            });
        }
        let to = self.not_empty(&transfer.to)?;
        let is_folder = to.ends_with('/') || to == "." || to.ends_with("/.");
        if sources.len() > 1 && !is_folder {
            return Err(format!("with several sources, the destination `{to}` must end with /"));
        }
        let to = self.absolute(&to);
        let slash = if is_folder && to != "/" { "/" } else { "" };
        let from = transfer.from.as_deref().map(|name| base(name, self.before, true));
        if from == Some(Base::Scratch) {
            return Err("there is nothing to copy in scratch".to_owned());
        }
        Ok(Action::Put(Put {
            from,
            sources,
            to: format!("{to}{slash}"),
            owner: transfer.chown.as_deref().map(|text| self.not_empty(text)).transpose()?,
            mode: transfer.chmod.as_deref().map(|text| self.mode(text)).transpose()?,
            unpack,
        }))
    }

    fn mode(&self, text: &str) -> Result<u16, String> {
        let text = self.expand(text)?;
        let mode = u16::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
        mode.ok_or_else(|| format!("--chmod={text} is no mode: write it as 755 or 0644"))
    }

    fn expand(&self, text: &str) -> Result<String, String> {
        words::expand(text, self.file.escape, &|name| self.value(name))
    }

    fn not_empty(&self, text: &str) -> Result<String, String> {
        let expanded = self.expand(text)?;
        match expanded.is_empty() {
            true => Err(format!("`{text}` is empty")),
            false => Ok(expanded),
        }
    }

    /// The image's variables hide those of the build.
    fn value(&self, name: &str) -> Option<String> {
        let own = self.stage.run.env.iter().find(|text| name_of(text) == name);
        let own = own.and_then(|text| text.split_once('=')).map(|(_, value)| value.to_owned());
        own.or_else(|| self.arguments.get(name).cloned())
    }

    fn variables(&self) -> BTreeMap<String, String> {
        let mut all = self.arguments.clone();
        let own = self.stage.run.env.iter().filter_map(|text| text.split_once('='));
        all.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        all
    }

    fn folder(&self) -> &str {
        match self.stage.run.working_dir.as_str() {
            "" => "/",
            folder => folder,
        }
    }

    fn absolute(&self, path: &str) -> String {
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.folder()),
        };
        format!("/{}", clean(&path).join("/"))
    }
}

fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}
