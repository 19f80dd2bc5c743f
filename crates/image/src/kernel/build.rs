//! A microVM kernel, compiled from Debian's source package.
//!
//! ```text
//! tools there? -> package linux-source-6.12 -> unpack -> configure -> compile
//!                                                          |
//!                                   every line of CONFIG took effect, or error
//! ```
//!
//! The result depends on the source's version, the configuration and the
//! compiler, and is cached by them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::pull::{key, title};
use super::{Kernel, Source};
use crate::apt::{Apt, check, tail};
use crate::decompress::Method;
use crate::progress::{Progress, Unit};
use crate::{Cache, Error, Result, deb};

/// The configuration: what is on, with the reasons.
pub const CONFIG: &str = include_str!("../../kernel/microvm-6.12.config");

const SOURCE_PACKAGE: &str = "linux-source-6.12";
/// Counts up when the result would change for the same source and configuration.
const RECIPE: u32 = 1;
/// About how many files are compiled, for showing progress.
const FILES: u64 = 1800;
/// What is in the source for other purposes than this kernel.
const SKIPPED: [&str; 4] = ["Documentation/", "tools/testing/", "tools/perf/", "LICENSES/"];

/// A tool that compiling needs: how to look for it, and Debian's package.
struct Tool {
    name: &'static str,
    package: &'static str,
    header: bool,
}

const fn program(name: &'static str, package: &'static str) -> Tool {
    Tool { name, package, header: false }
}

const TOOLS: [Tool; 8] = [
    program("make", "make"),
    program("gcc", "gcc"),
    program("ld", "binutils"),
    program("flex", "flex"),
    program("bison", "bison"),
    program("bc", "bc"),
    Tool { name: "stdlib.h", package: "libc6-dev", header: true },
    Tool { name: "gelf.h", package: "libelf-dev", header: true },
];

/// Compiles the microVM kernel, or finds it in the cache. Takes a few minutes,
/// a compiler, and 1.5 GiB of room in the cache while it works.
///
/// Missing tools are installed with apt-get if this runs as root, and named in
/// the error otherwise.
pub fn build(cache: &Cache, progress: &dyn Progress) -> Result<Kernel> {
    let apt = Apt::open(cache, progress)?;
    let package = apt.find(SOURCE_PACKAGE)?;
    provide_tools(progress)?;
    let key = key(Source::Built.kind(), RECIPE, &package)
        .with("config", CONFIG)
        .with("compiler", compiler()?);
    let entry = cache.entry(&key, |folder| {
        let work = cache.temporary()?;
        let file = apt.download(&package, work.path(), progress)?;
        let source = work.path().join("source");
        progress.step("unpacking the kernel's source");
        unpack(&file, &source, progress)?;
        // Three times the size of the source; no longer needed.
        fs::remove_file(&file).map_err(Error::file("remove", &file))?;
        let objects = work.path().join("objects");
        progress.step("configuring the kernel");
        configure(&source, &objects)?;
        progress.step("compiling the kernel");
        compile(&source, &objects, progress)?;
        let version = keep(&objects, folder)?;
        Ok(vec![("version", version), ("package", title(&package))])
    })?;
    progress.done();
    Kernel::from_entry(Source::Built, &entry)
}

/// Looks for the tools; installs what is missing, or says what is.
fn provide_tools(progress: &dyn Progress) -> Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !is_there(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if rustix::process::geteuid().is_root() {
        progress.step(&format!("installing {}", packages.join(", ")));
        let mut command = Command::new("apt-get");
        command.args(["-q", "-y", "install", "--no-install-recommends"]).args(&packages);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
        let output = command.output().map_err(not_started("apt-get", "apt"))?;
        check("apt-get", &format!("install {}", packages.join(" ")), &output)?;
        if TOOLS.iter().all(is_there) {
            return Ok(());
        }
    }
    let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
    Err(Error::MissingTools { missing: names.join(", "), packages: packages.join(" ") })
}

fn is_there(tool: &Tool) -> bool {
    if tool.header {
        return compiles(&format!("#include <{}>\n", tool.name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool.name).is_file())
}

/// Whether the preprocessor accepts a text.
fn compiles(text: &str) -> bool {
    let mut command = Command::new("gcc");
    command.args(["-E", "-x", "c", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let fed = child.stdin.take().is_some_and(|mut input| input.write_all(text.as_bytes()).is_ok());
    child.wait().is_ok_and(|status| status.success()) && fed
}

fn compiler() -> Result<Vec<u8>> {
    let output = Command::new("gcc").arg("--version").output();
    Ok(output.map_err(not_started("gcc", "gcc"))?.stdout)
}

/// Unpacks the source's tar archive, which is a file of the package.
fn unpack(package: &Path, to: &Path, progress: &dyn Progress) -> Result<()> {
    let what = package.display().to_string();
    let mut found = false;
    deb::for_each_file(package, |path, reader| {
        let name = path.to_string_lossy();
        if !(name.starts_with("usr/src/linux-source") && name.ends_with(".tar.xz")) {
            return Ok(());
        }
        found = true;
        let mut files = 0;
        deb::for_each_in_tar(Method::Xz.reader(reader, &what)?, &what, |path, kind, entry| {
            files += 1;
            if files % 1000 == 0 {
                progress.amount(files, None, Unit::Files);
            }
            unpack_one(path, kind, entry, to)
        })
    })?;
    if found { Ok(()) } else { Err(Error::format(what, "it has no source archive")) }
}

fn unpack_one<R: std::io::Read>(
    path: &Path,
    kind: tar::EntryType,
    entry: &mut tar::Entry<'_, R>,
    to: &Path,
) -> Result<()> {
    // The archive has one folder, linux-source-6.12, with everything in it.
    let below: PathBuf = path.components().skip(1).collect();
    if below.as_os_str().is_empty() || is_skipped(&below) {
        return Ok(());
    }
    let target = to.join(&below);
    if kind.is_dir() {
        return fs::create_dir_all(&target).map_err(Error::file("make the folder", &target));
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(Error::file("make the folder", folder))?;
    }
    entry.unpack(&target).map_err(Error::file("unpack", &target)).map(drop)
}

/// Whether a path of the source is not needed. Kconfig files always are, and
/// so is `arch/um`, which a makefile of `fs` includes.
fn is_skipped(path: &Path) -> bool {
    let name = path.to_string_lossy();
    let other_arch = name.strip_prefix("arch/").is_some_and(|name| {
        let arch = name.split_once('/').map(|(arch, _)| arch);
        arch.is_some_and(|arch| !matches!(arch, "x86" | "um"))
    });
    let is_kconfig = path.file_name().is_some_and(|name| name == "Kconfig");
    !is_kconfig && (other_arch || SKIPPED.iter().any(|folder| name.starts_with(folder)))
}

fn configure(source: &Path, objects: &Path) -> Result<()> {
    fs::create_dir_all(objects).map_err(Error::file("make the folder", objects))?;
    let fragment = objects.join("microvm.config");
    fs::write(&fragment, CONFIG).map_err(Error::file("write", &fragment))?;
    let mut command = make(source, objects);
    command.arg("allnoconfig").env("KCONFIG_ALLCONFIG", &fragment).stdin(Stdio::null());
    let output = command.output().map_err(not_started("make", "make"))?;
    check("make", "configure the kernel", &output)?;
    let path = objects.join(".config");
    let result = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let dropped = dropped(CONFIG, &result);
    if dropped.is_empty() {
        return Ok(());
    }
    Err(Error::KernelConfig { options: dropped.join(", ") })
}

/// The lines of a fragment that a configuration does not follow.
fn dropped<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let lines: std::collections::HashSet<&str> = config.lines().collect();
    let set = |name: &str| lines.iter().any(|line| line.split('=').next() == Some(name));
    let follows = |line: &&str| match line.strip_prefix("# CONFIG_") {
        // An option that cannot be chosen has no line at all.
        Some(rest) => match rest.strip_suffix(" is not set") {
            Some(name) => !set(&format!("CONFIG_{name}")),
            None => true,
        },
        None => line.starts_with('#') || line.is_empty() || lines.contains(line),
    };
    fragment.lines().filter(|line| !follows(line)).collect()
}

fn compile(source: &Path, objects: &Path, progress: &dyn Progress) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let log = objects.join("build.log");
    let errors = File::create(&log).map_err(Error::file("make", &log))?;
    let mut command = make(source, objects);
    command.args([&format!("-j{jobs}"), "vmlinux"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().map_err(not_started("make", "make"))?;
    let mut files = 0;
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        // A line a file: `  CC      kernel/fork.o`.
        if line.is_ok_and(|line| line.starts_with("  CC ") || line.starts_with("  AS ")) {
            files += 1;
            progress.amount(files, Some(FILES.max(files)), Unit::Files);
        }
    }
    let status = child.wait().map_err(not_started("make", "make"))?;
    if status.success() {
        return Ok(());
    }
    let output = tail(&fs::read(&log).unwrap_or_default());
    let purpose = "compile the kernel".to_string();
    Err(Error::ProgramFailed { program: "make", purpose, status: status.to_string(), output })
}

/// make, with nothing of the host's environment in the result.
fn make(source: &Path, objects: &Path) -> Command {
    let mut command = Command::new("make");
    command.arg("-C").arg(source).arg(format!("O={}", objects.display())).arg("ARCH=x86_64");
    for name in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS", "CFLAGS", "LDFLAGS", "CROSS_COMPILE"] {
        command.env_remove(name);
    }
    // Warnings are for the kernel's authors; looking for them takes time.
    command.arg("KCFLAGS=-w -pipe").env("LC_ALL", "C");
    command.env("KBUILD_BUILD_USER", "sparkler").env("KBUILD_BUILD_HOST", "sparkler");
    command.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01");
    command
}

/// Keeps the kernel and its configuration; the kernel's release.
fn keep(objects: &Path, entry: &Path) -> Result<String> {
    let kernel = entry.join("vmlinux");
    let mut command = Command::new("objcopy");
    command.arg("--strip-all").arg(objects.join("vmlinux")).arg(&kernel);
    let output = command.output().map_err(not_started("objcopy", "binutils"))?;
    check("objcopy", "strip the kernel", &output)?;
    let config = entry.join("config");
    fs::copy(objects.join(".config"), &config).map_err(Error::file("write", &config))?;
    let release = objects.join("include/config/kernel.release");
    let text = fs::read_to_string(&release).map_err(Error::file("read", &release))?;
    Ok(text.trim().to_string())
}

fn not_started(
    program: &'static str,
    package: &'static str,
) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::NoProgram { program, package, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_did_not_take_effect_are_found() {
        let config = "CONFIG_A=y\nCONFIG_N=64\n# CONFIG_B is not set\nCONFIG_C=y\n";
        let check = |fragment: &str, expected: &[&str]| {
            assert_eq!(dropped(fragment, config), expected, "{fragment}");
        };
        check("# A comment.\n\nCONFIG_A=y\nCONFIG_N=64\n", &[]);
        check("# CONFIG_B is not set\n# CONFIG_MISSING is not set\n", &[]);
        check("CONFIG_B=y\nCONFIG_N=63", &["CONFIG_B=y", "CONFIG_N=63"]);
        check("# CONFIG_C is not set", &["# CONFIG_C is not set"]);
    }

    #[test]
    fn the_configuration_names_nothing_twice() {
        let mut seen = std::collections::HashSet::new();
        for line in CONFIG.lines().filter(|line| line.starts_with("CONFIG_")) {
            assert!(seen.insert(line.split('=').next()), "{line}");
        }
    }

    #[test]
    fn only_what_is_needed_is_unpacked() {
        let needed = [
            "arch/Kconfig",
            "arch/x86/boot",
            "arch/um/x",
            "Documentation/Kconfig",
            "tools/objtool",
        ];
        for needed in needed {
            assert!(!is_skipped(Path::new(needed)), "{needed}");
        }
        for skipped in ["arch/arm64/kernel", "Documentation/x.rst", "tools/perf/Makefile"] {
            assert!(is_skipped(Path::new(skipped)), "{skipped}");
        }
    }
}
