//! What is to be done: the steps of each stage that is needed, with all variables expanded.
//!
//! Instructions that copy, make folders or run commands become steps; all others change what the
//! image runs, or what later steps see.

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use super::outline::{Base, Outline, Part, Wanted, argument, base, global};
use super::parse::{Command, Dockerfile, Given, Instruction, Located, Transfer};
use super::pattern::{clean, is_pattern_sound};
use super::words;
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
