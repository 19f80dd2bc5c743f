//! Debian's stock kernel, and its busybox, taken out of their packages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Kernel, Source, modules};
use crate::apt::{Apt, Package};
use crate::cache::Key;
use crate::decompress::Method;
use crate::progress::Progress;
use crate::{Cache, Error, Result, bzimage, deb, elf};

/// The package that always depends on the newest kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// Counts up when an entry's content would change for the same package.
const KERNEL_RECIPE: u32 = 1;
const BUSYBOX_PACKAGE: &str = "busybox-static";
const BUSYBOX_RECIPE: u32 = 1;
const MODULES: &str = "lib/modules";

/// The newest kernel of Debian's package `linux-image-cloud-amd64`, from the
/// cache or, if Debian has a newer one, from its archive. Lists younger than a
/// day are not fetched again.
pub fn pull(cache: &Cache, progress: &dyn Progress) -> Result<Kernel> {
    let apt = Apt::open(cache, progress)?;
    let package = apt.find_behind(KERNEL_PACKAGE)?;
    let key = key(Source::Debian.kind(), KERNEL_RECIPE, &package);
    let entry = cache.entry(&key, |folder| {
        let work = cache.temporary()?;
        let file = apt.download(&package, work.path(), progress)?;
        progress.step("unpacking the kernel");
        let version = unpack_kernel(&file, work.path(), folder)?;
        Ok(vec![("version", version), ("package", title(&package))])
    })?;
    progress.done();
    Kernel::from_entry(Source::Debian, &entry)
}

/// The static busybox of Debian's package `busybox-static`: the path of the
/// program in the cache.
pub fn pull_busybox(cache: &Cache, progress: &dyn Progress) -> Result<PathBuf> {
    // It changes so rarely that the cached one is taken without asking.
    if let Some(entry) = cache.list(BUSYBOX_PACKAGE).first() {
        return Ok(entry.file("busybox"));
    }
    let apt = Apt::open(cache, progress)?;
    let package = apt.find(BUSYBOX_PACKAGE)?;
    let entry = cache.entry(&key(BUSYBOX_PACKAGE, BUSYBOX_RECIPE, &package), |folder| {
        let work = cache.temporary()?;
        let file = apt.download(&package, work.path(), progress)?;
        unpack_busybox(&file, &folder.join("busybox"))?;
        Ok(vec![("package", title(&package))])
    })?;
    Ok(entry.file("busybox"))
}

pub(super) fn key(kind: &'static str, recipe: u32, package: &Package) -> Key {
    let key = Key::new(kind, recipe).with("package", &package.name);
    key.with("version", &package.version).with("sha256", &package.sha256)
}

pub(super) fn title(package: &Package) -> String {
    format!("{} {}", package.name, package.version)
}

/// Unpacks kernel and modules of a package into an entry; `work` takes what is
/// needed only on the way. The kernel's release.
fn unpack_kernel(package: &Path, work: &Path, entry: &Path) -> Result<String> {
    let vmlinuz = entry.join("vmlinuz");
    let all = work.join("modules");
    fs::create_dir_all(&all).map_err(Error::file("make the folder", &all))?;
    let mut version = None;
    deb::for_each_file(package, |path, reader| {
        if let Some(release) = in_folder(path, "boot", "vmlinuz-") {
            version = Some(release);
            save(reader, &vmlinuz)?;
        } else if path.starts_with(MODULES)
            && let Some(name) = module_name(path)
        {
            save_module(path, reader, &all.join(format!("{name}.ko")))?;
        }
        Ok(())
    })?;
    let what = package.display().to_string();
    let version = version.ok_or_else(|| Error::format(&what, "it has no /boot/vmlinuz"))?;
    let image = fs::read(&vmlinuz).map_err(Error::file("read", &vmlinuz))?;
    let vmlinux = entry.join("vmlinux");
    let kernel = bzimage::unpack(&image, &what)?;
    fs::write(&vmlinux, kernel).map_err(Error::file("write", &vmlinux))?;
    let choices = modules::choose(&dependencies(&all)?);
    modules::store(&choices, &all, entry)?;
    Ok(version)
}

/// What each module in a folder of `NAME.ko` needs.
fn dependencies(folder: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(Error::file("read", folder))?.flatten() {
        let path = entry.path();
        let Some(name) = module_name(&path) else { continue };
        let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
        let needs = elf::dependencies(&bytes).ok_or_else(|| {
            Error::format(path.display().to_string(), "it is no kernel module for x86-64")
        })?;
        all.insert(name, needs);
    }
    Ok(all)
}

fn unpack_busybox(package: &Path, to: &Path) -> Result<()> {
    let mut found = false;
    deb::for_each_file(package, |path, reader| {
        if path == Path::new("bin/busybox") || path == Path::new("usr/bin/busybox") {
            save(reader, to)?;
            found = true;
        }
        Ok(())
    })?;
    if !found {
        return Err(Error::format(package.display().to_string(), "it has no /bin/busybox"));
    }
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(to, executable).map_err(Error::file("make executable", to))
}

/// The rest of the name of a file `FOLDER/PREFIX...`.
fn in_folder(path: &Path, folder: &str, prefix: &str) -> Option<String> {
    let name = path.strip_prefix(folder).ok()?.to_str()?;
    Some(name.strip_prefix(prefix)?.to_string())
}

/// How newer packages compress modules.
const COMPRESSED: [(&str, Method); 3] =
    [("gz", Method::Gzip), ("xz", Method::Xz), ("zst", Method::Zstd)];

fn compression(path: &Path) -> Option<Method> {
    let extension = path.extension()?.to_str()?;
    COMPRESSED.iter().find(|(name, _)| *name == extension).map(|&(_, method)| method)
}

/// The name of the module in a file `NAME.ko`, compressed or not.
fn module_name(path: &Path) -> Option<String> {
    let file = match compression(path) {
        Some(_) => path.file_stem()?,
        None => path.file_name()?,
    };
    Some(elf::normal_name(file.to_str()?.strip_suffix(".ko")?))
}

fn save_module(path: &Path, reader: &mut dyn Read, to: &Path) -> Result<()> {
    match compression(path) {
        Some(method) => save(&mut *method.reader(reader, &path.display().to_string())?, to),
        None => save(reader, to),
    }
}

fn save(reader: &mut dyn Read, to: &Path) -> Result<()> {
    let mut file = File::create(to).map_err(Error::file("make", to))?;
    io::copy(reader, &mut file).map_err(Error::file("write", to)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let path = Path::new("lib/modules/6.1/kernel/drivers/virtio-rng.ko");
        assert_eq!(module_name(path).as_deref(), Some("virtio_rng"));
        assert_eq!(module_name(Path::new("a/virtio.ko.xz")).as_deref(), Some("virtio"));
        assert_eq!(module_name(Path::new("lib/modules/6.1/modules.order")), None);
        let boot = Path::new("boot/vmlinuz-6.1.0-cloud");
        assert_eq!(in_folder(boot, "boot", "vmlinuz-").as_deref(), Some("6.1.0-cloud"));
        assert_eq!(in_folder(Path::new("usr/vmlinuz-1"), "boot", "vmlinuz-"), None);
    }
}
