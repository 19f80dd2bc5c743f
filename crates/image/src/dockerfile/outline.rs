//! Which stages of a Dockerfile are needed, and with what each begins: all that can be known
//! before the base images are.
//!
//! A stage that the wanted one does not need is left out, with its base image.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Problem;
use super::parse::{Dockerfile, Instruction, Transfer};
use super::words::{self, Escape};

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
    pub(super) stages: Vec<Part>,
    /// The one that becomes the image.
    target: usize,
    pub(super) globals: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: Option<String>,
    pub(super) base: Base,
    pub(super) line: u32,
    pub(super) instructions: Range<usize>,
    pub(super) needed: bool,
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
pub(super) fn base(name: &str, before: &[Part], numbers: bool) -> Base {
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

pub(super) fn global(name: &str, globals: &BTreeMap<String, String>) -> Option<String> {
    globals.get(name).cloned().or_else(|| platform(name))
}

fn platform(name: &str) -> Option<String> {
    PLATFORM.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

/// The value of an `ARG`: what the user gives, else what it is by default.
pub(super) fn argument(
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
