//! `sparkler image build` of a Dockerfile: its `RUN` steps run in machines of this process.
//!
//! What the steps do and write goes to standard error as it comes; standard output has the result
//! only.

mod console;
mod network;
mod step;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use image::dockerfile::build::{Listener, Order, Places, Position, build};
use image::dockerfile::outline::Wanted;
use image::dockerfile::plan::Step;
use image::ext4::Recipe;
use image::store::{Image, Name};
use image::{Cache, Store};

use crate::cli::image::BuildArgs;
use crate::progress::Bar;
use step::Machines;

/// The name of the file in a context.
const FILE: &str = "Dockerfile";

/// A Dockerfile and its context.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    file: PathBuf,
    context: PathBuf,
}

/// Whether a Dockerfile is meant: one is named, or is in the folder that is named, or is what is
/// named.
pub fn find(args: &BuildArgs) -> Option<Found> {
    let source = Path::new(&args.source);
    if let Some(file) = &args.dockerfile.file {
        return Some(Found { file: file.clone(), context: source.to_owned() });
    }
    let is_named_so = || {
        let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == FILE || name.starts_with("Dockerfile.") || name.ends_with(".Dockerfile")
    };
    let file = source.join(FILE);
    if file.is_file() {
        Some(Found { file, context: source.to_owned() })
    } else if source.is_file() && is_named_so() {
        let folder = source.parent().filter(|folder| *folder != Path::new(""));
        let context = folder.unwrap_or(Path::new(".")).to_owned();
        Some(Found { file: source.to_owned(), context })
    } else {
        None
    }
}

/// Builds the image.
pub fn run(store: &Store, found: &Found, args: &BuildArgs) -> Result<(Name, Image)> {
    for (option, given) in [
        ("--owner", args.owner.is_some()),
        ("--package", !args.packages.is_empty()),
        ("--mirror", args.mirror.is_some()),
    ] {
        if given {
            bail!("{option} cannot be given for a Dockerfile");
        }
    }
    if !found.context.is_dir() {
        bail!("the context {} is no folder", found.context.display());
    }
    let name = match &args.disk.name {
        Some(name) => Name::parse(name)?,
        None => default_name(&found.context)?,
    };
    let options = &args.dockerfile;
    let order = Order {
        file: found.file.clone(),
        context: found.context.clone(),
        wanted: Wanted {
            arguments: options.arguments.iter().cloned().collect(),
            target: options.target.clone(),
        },
        recipe: Recipe { size_mib: args.disk.size, no_journal: args.disk.no_journal },
        no_cache: options.no_cache,
    };
    let cache = Cache::open()?;
    let bar = Bar::new();
    let machines = Machines::new(options, &cache, &bar)?;
    let places = Places { store, runner: &machines, listener: &Told, progress: &bar };
    let image = build(&order, &name, &places)?;
    Ok((name, image))
}

/// The name of the context's folder.
fn default_name(context: &Path) -> Result<Name> {
    let folder = std::fs::canonicalize(context)?;
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match Name::parse(&name.to_ascii_lowercase()) {
        Ok(name) => Ok(name),
        Err(_) => bail!("{}: no name can be made of it; give one with --name", folder.display()),
    }
}

/// Tells of steps on standard error.
struct Told;

impl Listener for Told {
    fn step(&self, step: &Step, place: &Position, cached: bool) {
        let Position { stage, number, of } = place;
        let cached = if cached { "CACHED " } else { "" };
        eprintln!("[stage {stage}, {number}/{of}] {cached}{}", step.text);
    }

    fn warning(&self, text: &str) {
        eprintln!("sparkler: {text}");
    }
}
