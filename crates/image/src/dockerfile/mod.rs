//! Images from Dockerfiles.
//!
//! ```text
//! text --lines--> logical lines --parse--> Instruction --outline, plan--> Plan: stages of steps
//!                                                                 |
//!       context, base images --context, tree--> Tree --build------+--> disk, what to run
//!                                                 |     ^
//!                                          written v     | read
//!                                               disk --Runner--> disk, after a command
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `lines` | comments, directives, lines that go on, here-documents |
//! | [`parse`] | what an instruction says, typed, not yet expanded |
//! | [`words`] | words, quotes and variables |
//! | [`pattern`] | the patterns of `COPY` and of `.dockerignore` |
//! | [`outline`] | which stages are needed, and with what they begin |
//! | [`plan`] | the steps of each, with all variables expanded |
//! | [`context`] | the files that the user gives, without those that `.dockerignore` names |
//! | `copy` | `COPY` and `ADD`, on trees |
//! | [`build`] | does the steps, or finds what they made before |
//!
//! Parsing and planning are pure: they know no file. Files are copied in memory ([`crate::tree`]),
//! so only a `RUN` needs a machine, which is a [`build::Runner`] of the caller's.
//!
//! What is refused is named with file and line: `ONBUILD`, `ADD` of a URL or a repository,
//! `RUN --mount` and `--security`, `COPY --parents` and `--exclude`, other platforms than
//! linux/amd64, and patterns in variables. `HEALTHCHECK` and `MAINTAINER` are left out with a
//! warning.
//!
//! The syntax is that of Docker's Dockerfile reference.

pub mod build;
pub mod context;
mod copy;
mod lines;
pub mod outline;
pub mod parse;
pub mod pattern;
pub mod plan;
#[cfg(test)]
mod tests;
pub mod words;

use crate::Error;

/// Most bytes of a Dockerfile.
pub const TEXT_MAX: usize = 1 << 20;
/// Most instructions of a Dockerfile.
pub const INSTRUCTIONS_MAX: usize = 4096;
/// Most bytes of anything that variables are expanded in.
pub const EXPANDED_MAX: usize = 256 << 10;

/// What is wrong, and in which line. The line is 0 where it is about all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1 on.
    pub line: u32,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl Problem {
    fn new(line: u32, why: impl Into<String>) -> Self {
        Problem { line, why: why.into() }
    }

    /// The same as an error, with the name of the file.
    pub fn within(self, file: &str) -> Error {
        Error::Dockerfile { file: file.to_owned(), line: self.line, why: self.why }
    }
}
