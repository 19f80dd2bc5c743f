//! Debian packages from the archives that the host's apt knows.
//!
//! apt is run with lists and downloads of its own in the cache's folder, so it
//! needs no root and leaves the host's alone. It checks signatures and digests
//! of everything it fetches, with the host's keys. Nothing is installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use crate::progress::{Progress, Unit};
use crate::{Cache, Error, Result};

/// Lists older than this are fetched anew.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Touched when lists were fetched.
const STAMP: &str = "updated";
/// Most of a failed program's output that is shown, in bytes.
const OUTPUT_SHOWN: usize = 2000;

/// A package that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The archive's digest of the package file.
    pub(crate) sha256: String,
    depends: String,
    size: u64,
}

/// apt with its own folders.
pub(crate) struct Apt {
    folder: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Prepares apt and fetches the lists if there are none or they are old.
    pub(crate) fn open(cache: &Cache, progress: &dyn Progress) -> Result<Self> {
        let folder = cache.root().join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(Error::file("make the folder", &part))?;
        }
        let _lock = cache.lock("apt")?;
        let apt = Apt { config: folder.join("apt.conf"), folder };
        fs::write(&apt.config, config(&apt.folder)).map_err(Error::file("write", &apt.config))?;
        if !apt.is_fresh() {
            progress.step("fetching Debian's package lists");
            apt.update()?;
        }
        Ok(apt)
    }

    /// What the lists say of a package's newest version.
    pub(crate) fn find(&self, name: &str) -> Result<Package> {
        let mut command = self.command("apt-cache");
        let output = run(command.args(["show", "--no-all-versions", name]), "apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse(&text).ok_or_else(|| Error::NoPackage {
            package: name.to_string(),
            detail: tail(&output.stderr),
        })
    }

    /// The package that stands behind a package without content of its own:
    /// the first it depends on.
    pub(crate) fn find_behind(&self, name: &str) -> Result<Package> {
        let depends = self.find(name)?.depends;
        let first = depends.split([',', '|', ' ']).next().filter(|name| !name.is_empty());
        let first = first.ok_or_else(|| Error::format(name, "it depends on no package"))?;
        self.find(first)
    }

    /// Fetches a package into a folder; the path of its file.
    pub(crate) fn download(
        &self,
        package: &Package,
        to: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        progress.step(&format!("fetching {} {}", package.name, package.version));
        let mut command = self.command("apt-get");
        command.args(["-q", "download", &format!("{}={}", package.name, package.version)]);
        command.current_dir(to).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(not_started("apt-get"))?;
        // apt says too little to fill its pipes before it ends.
        while child.try_wait().map_err(not_started("apt-get"))?.is_none() {
            progress.amount(folder_size(to), Some(package.size), Unit::Bytes);
            sleep(Duration::from_millis(50));
        }
        let output = child.wait_with_output().map_err(not_started("apt-get"))?;
        check("apt-get", &format!("fetch the package {}", package.name), &output)?;
        find_file(to, ".deb")
    }

    fn update(&self) -> Result<()> {
        let output = run(self.command("apt-get").args(["-q", "update"]), "apt-get")?;
        if output.status.success() {
            let stamp = self.folder.join(STAMP);
            return fs::write(&stamp, "").map_err(Error::file("write", &stamp));
        }
        // Old lists are better than none, and the source that is out of reach
        // may have nothing to do with Debian. The next run tries again.
        let lists = fs::read_dir(self.folder.join("state/lists")).into_iter().flatten().flatten();
        let mut names = lists.map(|list| list.file_name());
        if names.any(|name| name.to_string_lossy().contains("_Packages")) {
            return Ok(());
        }
        check("apt-get", "fetch Debian's package lists", &output)
    }

    fn is_fresh(&self) -> bool {
        let fetched = fs::metadata(self.folder.join(STAMP)).and_then(|meta| meta.modified());
        // A time in the future is no reason to fetch.
        fetched.is_ok_and(|time| {
            SystemTime::now().duration_since(time).map_or(true, |age| age < LISTS_AGE_MAX)
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(&self.config).env("LC_ALL", "C").env_remove("APT_CONFIG");
        command
    }
}

/// apt's settings. Hooks are cleared since they are meant for the host's own
/// lists, and may need root.
fn config(folder: &Path) -> String {
    let folder = folder.display();
    let mut text = format!(
        "Dir::State \"{folder}/state/\";\n\
         Dir::State::lists \"lists/\";\n\
         Dir::State::status \"/var/lib/dpkg/status\";\n\
         Dir::State::extended_states \"{folder}/state/extended_states\";\n\
         Dir::Cache \"{folder}/cache/\";\n\
         Dir::Cache::pkgcache \"pkgcache.bin\";\n\
         Dir::Cache::srcpkgcache \"srcpkgcache.bin\";\n\
         Dir::Log \"{folder}/\";\n\
         Acquire::Languages \"none\";\n"
    );
    for hook in ["Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"] {
        text.push_str(&format!("#clear APT::Update::{hook};\n"));
    }
    if rustix::process::geteuid().is_root() {
        // apt's own user cannot enter root's home.
        text.push_str("APT::Sandbox::User \"root\";\n");
    }
    text
}

/// Reads the first paragraph that `apt-cache show` prints.
fn parse(text: &str) -> Option<Package> {
    let paragraph = text.split("\n\n").next()?;
    let field = |name: &str| {
        let mut lines = paragraph.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_string())
    };
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        sha256: field("SHA256")?,
        depends: field("Depends").unwrap_or_default(),
        size: field("Size")?.parse().ok()?,
    })
}

fn folder_size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
}

fn find_file(folder: &Path, ending: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    files.find(|path| path.to_string_lossy().ends_with(ending)).ok_or_else(|| {
        Error::format(folder.display().to_string(), format!("no {ending} file came"))
    })
}

/// Runs a program of apt's to its end.
fn run(command: &mut Command, program: &'static str) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(not_started(program))
}

fn not_started(program: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::NoProgram { program, package: "apt", source }
}

/// An error if the program did not end well.
pub(crate) fn check(program: &'static str, purpose: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(Error::ProgramFailed {
        program,
        purpose: purpose.to_string(),
        status: output.status.to_string(),
        output: tail(said),
    })
}

/// The end of a program's output.
pub(crate) fn tail(output: &[u8]) -> String {
    let start = output.len().saturating_sub(OUTPUT_SHOWN);
    String::from_utf8_lossy(&output[start..]).trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph() {
        let text = "Package: linux-image\nVersion: 6.1-1\nDepends: linux-image-6.1 (= 6.1-1), x\n\
                    Size: 1452\nSHA256: 0a1b\nDescription: a\n b\n\nPackage: other\n";
        let package = parse(text).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str(), package.size),
            ("linux-image", "6.1-1", 1452)
        );
        assert_eq!(package.depends, "linux-image-6.1 (= 6.1-1), x");
        assert_eq!(parse(""), None);
        assert_eq!(parse("Package: a\nVersion: 1\nSize: x\nSHA256: 0\n"), None);
    }
}
