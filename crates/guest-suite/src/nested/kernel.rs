//! Debian's cloud kernel and its KVM modules, from the package, in the user's cache folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::NestedError;

/// The package that depends on the newest kernel's.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// The modules to insert, in order, below the kernel's module folder.
const MODULES: [&str; 4] = [
    "kernel/virt/lib/irqbypass.ko",
    "kernel/arch/x86/kvm/kvm.ko",
    "kernel/arch/x86/kvm/kvm-amd.ko",
    "kernel/drivers/net/tun.ko",
];

/// An unpacked kernel.
pub(super) struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// Modules in the order in which they must be inserted.
    pub modules: Vec<PathBuf>,
}

/// Held while the kernel is looked for and fetched: tests run in parallel, and one of them makes it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The kernel from the cache; downloads it the first time.
pub(super) fn get() -> Result<Kernel, NestedError> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cache_folder()?;
    if let Some(kernel) = find(&folder) {
        return Ok(kernel);
    }
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    std::fs::create_dir_all(&partial).map_err(|source| host("make", &partial, source))?;
    let listing = tool(apt("apt-cache", &folder).args(["depends", META_PACKAGE]))?;
    let package = listing
        .split_whitespace()
        .find(|word| word.starts_with("linux-image-") && *word != META_PACKAGE)
        .ok_or_else(|| {
            NestedError::Missing(format!("the package lists do not know {META_PACKAGE}"))
        })?;
    tool(apt("apt-get", &folder).args(["download", package]).current_dir(&partial))?;
    let deb = std::fs::read_dir(&partial)
        .map_err(|source| host("read", &partial, source))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| NestedError::Missing(format!("apt-get left no package {package}")))?;
    tool(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(partial.join("root")))?;
    std::fs::remove_file(&deb).map_err(|source| host("remove", &deb, source))?;
    // Somebody else may have been quicker; then theirs is used.
    if std::fs::rename(&partial, &folder).is_err() {
        let _ = std::fs::remove_dir_all(&partial);
    }
    find(&folder).ok_or_else(|| NestedError::Missing(format!("{package} has no KVM modules")))
}

/// A program of apt's, with the package lists of the cache beside `folder` if there are any: a fresh
/// host has none of its own.
fn apt(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    let config = folder.with_file_name("apt").join("apt.conf");
    if config.exists() {
        command.arg("-c").arg(config);
    }
    command
}

fn cache_folder() -> Result<PathBuf, NestedError> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("SPARKLER_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("sparkler")))
        .or_else(|| Some(set("HOME")?.join(".cache/sparkler")))
        .ok_or_else(|| {
            NestedError::Missing("neither SPARKLER_CACHE nor HOME is set".to_string())
        })?;
    std::fs::create_dir_all(&base).map_err(|source| host("make", &base, source))?;
    Ok(base.join("nested-kernel"))
}

fn find(folder: &Path) -> Option<Kernel> {
    let image = std::fs::read_dir(folder.join("root/boot"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))
        })?;
    let version = image.file_name()?.to_string_lossy().strip_prefix("vmlinuz-")?.to_string();
    let tree = folder.join("root/lib/modules").join(version);
    let modules: Vec<PathBuf> = MODULES.iter().map(|name| tree.join(name)).collect();
    modules.iter().all(|m| m.exists()).then_some(Kernel { image, modules })
}

fn tool(command: &mut Command) -> Result<String, NestedError> {
    let what = format!("{command:?}");
    let output =
        command.output().map_err(|e| NestedError::Missing(format!("cannot start {what} ({e})")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(NestedError::Tool { what, text })
}

fn host(verb: &str, path: &Path, source: std::io::Error) -> NestedError {
    NestedError::Host { what: format!("{verb} {}", path.display()), source }
}
