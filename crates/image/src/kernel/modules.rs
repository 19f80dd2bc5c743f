//! The few modules that a microVM needs of a kernel that has modules.
//!
//! Which these are is the table [`WANTED`]; what they in turn need is read from
//! the modules themselves, since Debian's package has no `modules.dep` (depmod
//! makes it on the installed system). The cache entry has the files in `modules/`
//! and their list in [`LIST`], in an order in which each comes after those it
//! needs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Entry;
use crate::elf;
use crate::{Error, Result};

/// The list's file name in the cache entry, and its form: `STAGE TRIGGER FILE`.
pub(super) const LIST: &str = "modules.list";
const FOLDER: &str = "modules";

/// When init inserts a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before the root disk and the command.
    Early,
    /// After the command has started.
    Late,
}

/// What makes init insert a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Nothing; it is always inserted.
    Always,
    /// A virtio device of this number (virtio specification, section 5).
    Virtio(u32),
    /// A virtio device on the PCI bus.
    VirtioPci,
}

/// A module, uncompressed and without what makes inserting it slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// When it is inserted.
    pub stage: Stage,
    /// What makes it be inserted.
    pub trigger: Trigger,
    /// The file, whose name ends with `.ko`.
    pub file: PathBuf,
}

/// The modules that devices need. A kernel that lacks one has it built in.
const WANTED: [(Stage, Trigger, &str); 12] = [
    (Stage::Early, Trigger::Always, "virtio_mmio"),
    (Stage::Early, Trigger::VirtioPci, "virtio_pci"),
    (Stage::Early, Trigger::Virtio(2), "virtio_blk"),
    (Stage::Early, Trigger::Virtio(27), "virtio_pmem"),
    (Stage::Early, Trigger::Virtio(26), "virtiofs"),
    (Stage::Early, Trigger::Virtio(2), "ext4"),
    (Stage::Early, Trigger::Virtio(1), "virtio_net"),
    (Stage::Early, Trigger::Virtio(3), "virtio_console"),
    (Stage::Early, Trigger::Virtio(19), "vmw_vsock_virtio_transport"),
    (Stage::Late, Trigger::Virtio(4), "virtio_rng"),
    (Stage::Late, Trigger::Virtio(5), "virtio_balloon"),
    (Stage::Late, Trigger::Virtio(24), "virtio_mem"),
];

/// A chosen module, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    stage: Stage,
    trigger: Trigger,
    name: String,
}

/// Chooses from all modules of a kernel, given as name and dependencies.
///
/// A dependency comes before its first user, with that user's stage and
/// trigger. If a second user is inserted for another reason, the dependency
/// is listed once more; inserting a module twice does nothing.
pub(super) fn choose(all: &BTreeMap<String, Vec<String>>) -> Vec<Choice> {
    let mut chosen: Vec<Choice> = Vec::new();
    for &(stage, trigger, name) in &WANTED {
        let mut path = Vec::new();
        add(all, name, (stage, trigger), &mut path, &mut chosen);
    }
    chosen
}

fn add(
    all: &BTreeMap<String, Vec<String>>,
    name: &str,
    when: (Stage, Trigger),
    path: &mut Vec<String>,
    chosen: &mut Vec<Choice>,
) {
    let Some(needs) = all.get(name) else { return };
    // Modules cannot need each other in a circle; a damaged one could say so.
    if path.iter().any(|above| above == name) || covered(chosen, name, when) {
        return;
    }
    path.push(name.to_string());
    for need in needs {
        add(all, need, when, path, chosen);
    }
    path.pop();
    let (stage, trigger) = when;
    chosen.push(Choice { stage, trigger, name: name.to_string() });
}

/// Whether a module is there already whenever this stage and trigger come.
fn covered(chosen: &[Choice], name: &str, (stage, trigger): (Stage, Trigger)) -> bool {
    chosen.iter().filter(|choice| choice.name == name).any(|choice| {
        choice.stage <= stage && (choice.trigger == Trigger::Always || choice.trigger == trigger)
    })
}

/// Writes chosen modules and their list into a cache entry that is being made.
/// `source` has all modules of the kernel as `NAME.ko`.
pub(super) fn store(choices: &[Choice], source: &Path, entry: &Path) -> Result<()> {
    let folder = entry.join(FOLDER);
    fs::create_dir_all(&folder).map_err(Error::file("make the folder", &folder))?;
    let mut list = String::new();
    for Choice { stage, trigger, name } in choices {
        let file = format!("{name}.ko");
        let from = source.join(&file);
        let bytes = fs::read(&from).map_err(Error::file("read", &from))?;
        let light = elf::lighten(&bytes)
            .ok_or_else(|| Error::format(&file, "it is no kernel module for x86-64"))?;
        let to = folder.join(&file);
        fs::write(&to, light).map_err(Error::file("write", &to))?;
        list.push_str(&format!("{stage} {trigger} {file}\n"));
    }
    let path = entry.join(LIST);
    fs::write(&path, list).map_err(Error::file("write", &path))
}

/// The modules of a complete cache entry; none if it has no list.
pub(super) fn load(entry: &Entry) -> Result<Vec<Module>> {
    let path = entry.file(LIST);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let list = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let bad = || Error::format(path.display().to_string(), "a line cannot be understood");
    let modules = list.lines().map(|line| {
        let (stage, trigger, file) = parse(line).ok_or_else(bad)?;
        Ok(Module { stage, trigger, file: entry.file(FOLDER).join(file) })
    });
    modules.collect()
}

fn parse(line: &str) -> Option<(Stage, Trigger, &str)> {
    let mut words = line.split(' ');
    let stage = match words.next()? {
        "early" => Stage::Early,
        "late" => Stage::Late,
        _ => return None,
    };
    let trigger = match words.next()? {
        "always" => Trigger::Always,
        "virtio-pci" => Trigger::VirtioPci,
        other => Trigger::Virtio(other.strip_prefix("virtio:")?.parse().ok()?),
    };
    Some((stage, trigger, words.next()?))
}

impl Module {
    /// The line for init's list, which names the file without its folder.
    pub fn line(&self) -> String {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        format!("{} {} {name}", self.stage, self.trigger)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Early => "early",
            Stage::Late => "late",
        })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Always => f.write_str("always"),
            Trigger::Virtio(number) => write!(f, "virtio:{number}"),
            Trigger::VirtioPci => f.write_str("virtio-pci"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(modules: &[(&str, &[&str])], expected: &[&str]) {
        let all = modules.iter().map(|(name, needs)| {
            (name.to_string(), needs.iter().map(|need| need.to_string()).collect())
        });
        let choices = choose(&all.collect());
        let lines: Vec<String> =
            choices.iter().map(|c| format!("{} {} {}", c.stage, c.trigger, c.name)).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        check(
            &[
                ("virtio", &[]),
                ("virtio_ring", &["virtio"]),
                ("virtio_mmio", &["virtio_ring", "virtio"]),
                ("virtio_blk", &["virtio_ring"]),
                ("failover", &[]),
                ("net_failover", &["failover"]),
                ("virtio_net", &["virtio", "net_failover"]),
                ("unrelated", &[]),
            ],
            &[
                "early always virtio",
                "early always virtio_ring",
                "early always virtio_mmio",
                "early virtio:2 virtio_blk",
                "early virtio:1 failover",
                "early virtio:1 net_failover",
                "early virtio:1 virtio_net",
            ],
        );
    }

    #[test]
    fn users_with_other_triggers_name_what_they_share_again() {
        check(
            &[("virtio_blk", &["shared"]), ("virtio_net", &["shared"]), ("shared", &[])],
            &[
                "early virtio:2 shared",
                "early virtio:2 virtio_blk",
                "early virtio:1 shared",
                "early virtio:1 virtio_net",
            ],
        );
    }

    #[test]
    fn a_circle_ends() {
        check(
            &[("virtio_mmio", &["virtio"]), ("virtio", &["virtio_mmio"])],
            &["early always virtio", "early always virtio_mmio"],
        );
    }

    #[test]
    fn a_kernel_with_everything_built_in_needs_none() {
        check(&[], &[]);
    }

    #[test]
    fn lines_come_back() {
        for line in ["early always a.ko", "late virtio:4 b.ko", "early virtio-pci c.ko"] {
            let (stage, trigger, file) = parse(line).unwrap();
            let module = Module { stage, trigger, file: Path::new("/x").join(file) };
            assert_eq!(module.line(), line);
        }
        assert_eq!(parse("early never a.ko"), None);
        assert_eq!(parse("early always"), None);
    }
}
