//! `sparkler kernel pull`, `build`, `ls` and `rm`.

use std::io::Write;
use std::time::SystemTime;

use anyhow::{Context, Result};
use image::kernel::cmdline::Features;
use image::kernel::{self, Kernel, Source};
use image::{Cache, starter};

use crate::cli::KernelVerb;
use crate::progress::Bar;

/// Both sources, as they are called on the command line.
const SOURCES: [(&str, Source); 2] = [("microvm", Source::Built), ("debian", Source::Debian)];

/// Does what the verb says.
pub fn run(verb: &KernelVerb) -> Result<()> {
    let cache = Cache::open()?;
    match verb {
        KernelVerb::Pull => made(&cache, kernel::pull),
        KernelVerb::Build => made(&cache, kernel::build),
        KernelVerb::Ls { paths: false } => list(&cache),
        KernelVerb::Ls { paths: true } => list_paths(&cache),
        KernelVerb::Rm { name, version } => remove(&cache, name, version.as_deref()),
    }
}

/// Gets a kernel and the initramfs that goes with it, and says where they are.
fn made(
    cache: &Cache,
    make: impl FnOnce(&Cache, &dyn image::Progress) -> image::Result<Kernel>,
) -> Result<()> {
    let bar = Bar::new();
    let kernel = make(cache, &bar)?;
    let initrd = starter::initramfs(cache, &kernel, &bar)?;
    starter::root_initramfs(cache, &kernel, &bar)?;
    drop(bar);
    println!("{} ({})", kernel.version, kernel.package);
    println!("kernel     {}", kernel.vmlinux.display());
    println!("initramfs  {}", initrd.display());
    Ok(())
}

fn list(cache: &Cache) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<9} {:<28} {:>8}  {:<8} FILE", "NAME", "VERSION", "SIZE", "AGE")?;
    for (name, source) in SOURCES {
        for kernel in kernel::list(cache, source)? {
            let (size, age) = (format!("{} MiB", kernel.size >> 20), age(kernel.made));
            let file = kernel.vmlinux.display();
            writeln!(out, "{name:<9} {:<28} {size:>8}  {age:<8} {file}", kernel.version)?;
        }
    }
    Ok(())
}

/// For programs: name, kernel, initramfs and command line, with tabs between; the newest of each
/// source.
fn list_paths(cache: &Cache) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for (name, source) in SOURCES {
        if let Some(kernel) = kernel::list(cache, source)?.into_iter().next() {
            let initrd = starter::initramfs(cache, &kernel, &image::Quiet)?;
            let (file, initrd) = (kernel.vmlinux.display(), initrd.display());
            let line = kernel::cmdline::default(source, Features::Few);
            writeln!(out, "{name}\t{file}\t{initrd}\t{line}")?;
        }
    }
    Ok(())
}

fn remove(cache: &Cache, name: &str, version: Option<&str>) -> Result<()> {
    let known = SOURCES.iter().find(|(known, _)| *known == name);
    let (_, source) =
        known.with_context(|| format!("no kernel `{name}`: write debian or microvm"))?;
    let removed = kernel::remove(cache, *source, version)?;
    anyhow::ensure!(
        !removed.is_empty(),
        "there is no such kernel; `sparkler kernel ls` lists them"
    );
    for kernel in removed {
        println!("removed {name} {}, {} MiB", kernel.version, kernel.size >> 20);
    }
    Ok(())
}

/// How long ago, in one unit.
pub fn age(made: SystemTime) -> String {
    let seconds = made.elapsed().map_or(0, |age| age.as_secs());
    match seconds {
        0..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
