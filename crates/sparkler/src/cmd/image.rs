//! `sparkler image`: making, listing and removing images.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use image::Store;
use image::ext4::Recipe;
use image::oci::reference::Reference;
use image::oci::registry::Options;
use image::source::{Hints, Source};
use image::store::{Image, Name, Removed, Totals};
use serde::Serialize;

use crate::cli::image::{BuildArgs, DiskArgs, ImageVerb, PullArgs};
use crate::cmd::dockerfile;
use crate::cmd::kernel::age;
use crate::progress::Bar;

/// Digits of a number that are shown.
const ID_SHOWN: usize = 12;

/// Does what the verb says.
pub fn run(verb: &ImageVerb) -> Result<()> {
    let store = Store::open()?;
    match verb {
        ImageVerb::Build(args) => build(&store, args),
        ImageVerb::Pull(args) => pull(&store, args),
        ImageVerb::Ls { json } => list(&store, *json),
        ImageVerb::Inspect { images } => inspect(&store, images),
        ImageVerb::Rm { images } => remove(&store, images),
        ImageVerb::Prune { json } => prune(&store, *json),
        ImageVerb::Export { image, file } => export(&store, image, file),
    }
}

/// An image as programs read it.
#[derive(Serialize)]
struct Described<'a> {
    id: &'a str,
    names: &'a [Name],
    made: u64,
    disk: &'a Path,
    stored: u64,
    #[serde(flatten)]
    record: &'a image::store::Record,
}

impl<'a> Described<'a> {
    fn of(image: &'a Image) -> Self {
        let since = image.made.duration_since(std::time::SystemTime::UNIX_EPOCH);
        Described {
            id: &image.id,
            names: &image.names,
            made: since.map_or(0, |since| since.as_secs()),
            disk: &image.disk,
            stored: image.stored,
            record: &image.record,
        }
    }
}

fn build(store: &Store, args: &BuildArgs) -> Result<()> {
    if let Some(found) = dockerfile::find(args) {
        let (name, image) = dockerfile::run(store, &found, args)?;
        return told(&name, &image, args.disk.json);
    }
    let hints =
        Hints { owner: args.owner, packages: args.packages.clone(), mirror: args.mirror.clone() };
    make(store, &Source::parse(&args.source, &hints)?, &args.disk)
}

fn pull(store: &Store, args: &PullArgs) -> Result<()> {
    let options =
        Options { mirror: args.mirror.clone(), plain_http: args.plain_http, ..Options::default() };
    make(store, &Source::Registry(Reference::parse(&args.reference)?, options), &args.disk)
}

fn make(store: &Store, source: &Source, args: &DiskArgs) -> Result<()> {
    let name = match &args.name {
        Some(name) => Name::parse(name)?,
        None => source.default_name()?,
    };
    let recipe = Recipe { size_mib: args.size, no_journal: args.no_journal };
    let bar = Bar::new();
    let image = source.make(store, &name, &recipe, &bar)?;
    drop(bar);
    told(&name, &image, args.json)
}

/// Says what was made.
fn told(name: &Name, image: &Image, json: bool) -> Result<()> {
    if json {
        return print(&Described::of(image));
    }
    let (size, stored) = (mib(image.record.size), mib(image.stored));
    println!("{} ({}), a disk of {size} that takes {stored}", name.as_str(), short(&image.id));
    Ok(())
}

fn list(store: &Store, json: bool) -> Result<()> {
    #[derive(Serialize)]
    struct All<'a> {
        images: Vec<Described<'a>>,
        totals: Totals,
    }
    let (images, totals) = (store.images()?, store.totals()?);
    if json {
        return print(&All { images: images.iter().map(Described::of).collect(), totals });
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<36} {:<ID_SHOWN$} {:>9} {:>9} {:>9}  AGE",
        "NAME", "ID", "SIZE", "FREE", "TAKES"
    )?;
    for image in &images {
        let columns =
            (mib(image.record.size), mib(image.record.free), mib(image.stored), age(image.made));
        let unnamed = [None];
        let named: Vec<Option<&Name>> = image.names.iter().map(Some).collect();
        for name in if named.is_empty() { &unnamed[..] } else { &named } {
            let name = name.map_or("(no name)", Name::as_str);
            let (size, free, takes, age) = &columns;
            writeln!(out, "{name:<36} {} {size:>9} {free:>9} {takes:>9}  {age}", short(&image.id))?;
        }
    }
    writeln!(
        out,
        "{} images take {}, {} blobs kept for the next pull {}; {} are free in {}",
        totals.images,
        mib(totals.images_bytes),
        totals.blobs,
        mib(totals.blobs_bytes),
        mib(totals.free_bytes),
        store.root().display()
    )?;
    Ok(())
}

fn inspect(store: &Store, names: &[String]) -> Result<()> {
    let images = names.iter().map(|name| store.find(name));
    let images = images.collect::<image::Result<Vec<Image>>>()?;
    print(&images.iter().map(Described::of).collect::<Vec<_>>())
}

fn remove(store: &Store, names: &[String]) -> Result<()> {
    for name in names {
        let removed = store.remove(name)?;
        match removed.images.first() {
            Some(id) => println!("removed {name} ({}), {}", short(id), mib(removed.bytes)),
            None => println!("removed the name {name}; the image has others"),
        }
    }
    Ok(())
}

fn prune(store: &Store, json: bool) -> Result<()> {
    let removed: Removed = store.prune()?;
    if json {
        return print(&removed);
    }
    let (images, blobs, bytes) = (removed.images.len(), removed.blobs, mib(removed.bytes));
    let steps = removed.steps;
    println!("removed {images} images and {blobs} blobs, {steps} steps of Dockerfiles, {bytes}");
    if removed.blobs_in_use {
        println!("other blobs are in use by a pull, and were left");
    }
    if removed.steps_in_use {
        println!("steps are in use by a build, and were left");
    }
    Ok(())
}

fn export(store: &Store, name: &str, to: &Path) -> Result<()> {
    let image = store.find(name)?;
    let from = File::open(&image.disk).context(image.disk.display().to_string())?;
    let options = File::options().write(true).create_new(true).open(to);
    let file = options.with_context(|| format!("cannot make {}", to.display()))?;
    let copied = image::disk::copy(&from, &file);
    if copied.is_err() {
        // Half a disk is of no use, and takes room.
        std::fs::remove_file(to).ok();
    }
    copied.with_context(|| format!("cannot write {}", to.display()))?;
    println!("{} ({})", to.display(), mib(image.record.size));
    Ok(())
}

fn print(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

fn short(id: &str) -> &str {
    id.get(..ID_SHOWN).unwrap_or(id)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
