//! Does what a plan says, or finds what was done before.
//!
//! ```text
//! base --> Tree --COPY, WORKDIR--> Tree --RUN: written to a disk, a machine--> disk, which is kept
//!           ^                                                                   |
//!           +----------------------- read, where files are copied --------------+
//! last stage --> Tree --> disk without what was removed --> Store
//! ```
//!
//! Every step has a key: a hash of the key before it and of all that the step depends on, with the
//! contents, names and modes of the files that it copies, but not their times. A `RUN` leaves its
//! disk in the store under its key; whatever comes before a `RUN` that is found there is not done
//! again. The image remembers the key of its last step.
//!
//! Nothing that fails leaves anything: disks are made in temporary folders and renamed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use super::outline::{self, Base, Wanted};
use super::plan::{self, Action, Exec, Plan, Put, Source, Stage, Step};
use super::{Problem, context, copy, parse};
use crate::cache::{Entry, Key, Temporary};
use crate::debian::Suite;
use crate::ext4::{self, Recipe};
use crate::oci::reference::Reference;
use crate::oci::registry;
use crate::progress::Progress;
use crate::source;
use crate::store::{Image, Name, Record, Store};
use crate::tree::Tree;
use crate::{Cache, Error, Result, disk};

/// Count up when steps would give something else for the same inputs.
const RECIPE: u32 = 1;
/// The kind of entries.
const KIND: &str = "build-step";
const DISK: &str = "disk.ext4";
/// The disk of a machine that runs a command: what it does not use takes no room.
const RUN_DISK_MIB: u64 = 64 << 10;
/// What disks of steps may take. The oldest go first.
const STEPS_MAX: u64 = 20 << 30;
/// With less free room than this after a step, its disk may lack what did not fit.
const ROOM_MIN: u64 = 4 << 20;

/// Runs commands. The machine is the caller's.
pub trait Runner {
    /// Runs a command with this disk as root, and gives the disk back unmounted.
    fn run(&self, disk: &Path, command: &Exec) -> Ended;
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Status(u32),
    /// It was stopped, since it ran for so many seconds.
    TimedOut(u64),
    /// The user wants the build to stop.
    Interrupted,
    /// There was no machine for it, or it died.
    Failed(String),
}

/// Hears what is done.
pub trait Listener {
    /// A step begins, or was done before.
    fn step(&self, step: &Step, place: &Position, cached: bool);
    /// Something seems wrong, but is no reason to stop.
    fn warning(&self, text: &str);
}

/// Where a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The number of its stage, from 1 on.
    pub stage: usize,
    /// The number of the step in it, from 1 on.
    pub number: usize,
    /// How many the stage has.
    pub of: usize,
}

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Order {
    /// The Dockerfile.
    pub file: PathBuf,
    /// The folder that files are copied from.
    pub context: PathBuf,
    /// Arguments and the stage.
    pub wanted: Wanted,
    /// What the disk of the image is like.
    pub recipe: Recipe,
    /// Whether steps are done again that were done before.
    pub no_cache: bool,
}

/// Where things come from and go to.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// Images, and disks of steps.
    pub store: &'a Store,
    /// Machines.
    pub runner: &'a dyn Runner,
    /// Who hears of steps.
    pub listener: &'a dyn Listener,
    /// Who hears how far long work is.
    pub progress: &'a dyn Progress,
}

/// What [`shrink`] has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// How many disks of steps.
    pub(crate) steps: u64,
    /// Bytes that were given back.
    pub(crate) bytes: u64,
}

/// Builds an image, and puts it into the store under this name.
pub fn build(order: &Order, name: &Name, places: &Places<'_>) -> Result<Image> {
    order.recipe.check()?;
    let file = order.file.display().to_string();
    let located = |problem: Problem| problem.within(&file);
    let text = fs::read(&order.file).map_err(Error::file("read", &order.file))?;
    let text = String::from_utf8(text).map_err(|_| located(Problem::new(0, "it is no text")))?;
    let parsed = parse::parse(&text).map_err(located)?;
    let outline = outline::outline(&parsed, &order.wanted).map_err(located)?;
    let mut images = Images { places: *places, known: HashMap::new() };
    for (line, name) in outline.images() {
        images.get(name).map_err(|error| at(&file, line, &format!("FROM {name}"), error))?;
    }
    let base_run = |name: &str| images.known.get(name).map(|image| image.record.run.clone());
    let plan = plan::plan(&parsed, &outline, &order.wanted, &base_run).map_err(located)?;
    for warning in &plan.warnings {
        places.listener.warning(&located(warning.clone()).to_string());
    }
    let mut build = Build::new(order, file, places, &plan, images)?;
    build.find_keys()?;
    build.image(name)
}

/// Removes the oldest disks of steps, until the others take no more than this.
pub(crate) fn shrink(cache: &Cache, max: u64) -> Result<Pruned> {
    let (mut pruned, mut kept) = (Pruned::default(), 0);
    for entry in cache.list(KIND) {
        let bytes = fs::metadata(entry.file(DISK)).map_or(0, |metadata| metadata.blocks() * 512);
        if kept + bytes <= max {
            kept += bytes;
            continue;
        }
        entry.remove()?;
        pruned.steps += 1;
        pruned.bytes += bytes;
    }
    Ok(pruned)
}

/// Images that stages begin with, or that files are copied from.
struct Images<'a> {
    places: Places<'a>,
    known: HashMap<String, Image>,
}

impl Images<'_> {
    /// An image of the store; or a release, or an image from a registry, which go into the store.
    fn get(&mut self, name: &str) -> Result<&Image> {
        if !self.known.contains_key(name) {
            let image = self.find(name)?;
            self.known.insert(name.to_owned(), image);
        }
        self.known.get(name).ok_or_else(|| Error::NoImage(name.to_owned()))
    }

    fn find(&self, name: &str) -> Result<Image> {
        let Places { store, progress, .. } = self.places;
        match store.find(name) {
            Err(Error::NoImage(_)) => {}
            found => return found,
        }
        let source = match Suite::parse(name) {
            Some(suite) => source::Source::Suite(suite?, Vec::new(), None),
            None => {
                let options = registry::Options::default();
                source::Source::Registry(Reference::parse(name)?, options)
            }
        };
        // Under the name as it is written, by which it is found the next time.
        let known_as = Name::parse(name).or_else(|_| source.default_name())?;
        source.make(store, &known_as, &Recipe::default(), progress)
    }
}

type Hash = [u8; 32];

/// The files of a stage, as far as it is done.
enum Files {
    Tree(Tree),
    Disk(PathBuf),
}

/// A build under way.
struct Build<'a> {
    order: &'a Order,
    file: String,
    places: Places<'a>,
    plan: &'a Plan,
    images: Images<'a>,
    work: Temporary,
    /// Nobody else removes disks of steps as long as this is held.
    _steps: File,
    /// The context, once it was looked at.
    context: Option<Rc<Tree>>,
    /// The keys of a stage's steps, behind that of its base.
    keys: HashMap<usize, Vec<Hash>>,
    /// Stages that are done.
    done: HashMap<usize, Rc<Tree>>,
    /// Images that files were copied from.
    image_trees: HashMap<String, Rc<Tree>>,
}

impl<'a> Build<'a> {
    fn new(
        order: &'a Order,
        file: String,
        places: &Places<'a>,
        plan: &'a Plan,
        images: Images<'a>,
    ) -> Result<Self> {
        Ok(Build {
            order,
            file,
            places: *places,
            plan,
            images,
            work: places.store.work()?,
            _steps: places.store.hold_steps()?,
            context: None,
            keys: HashMap::new(),
            done: HashMap::new(),
            image_trees: HashMap::new(),
        })
    }

    /// Finds the keys of all steps. This reads what is copied from the context.
    fn find_keys(&mut self) -> Result<()> {
        for stage in &self.plan.stages {
            let mut key = match &stage.base {
                Base::Scratch => hash(&[b"scratch"]),
                Base::Stage(other) => self.key_of(*other),
                Base::Image(name) => hash(&[b"image", self.images.get(name)?.id.as_bytes()]),
            };
            let mut keys = vec![key];
            for step in &stage.steps {
                let input = self.input(step).map_err(|error| self.at(step, error))?;
                key = hash(&[&key, &input]);
                keys.push(key);
            }
            self.keys.insert(stage.index, keys);
        }
        Ok(())
    }

    /// The key of a stage that comes before the one at hand.
    fn key_of(&self, stage: usize) -> Hash {
        let keys = self.keys.get(&stage);
        keys.and_then(|keys| keys.last().copied()).unwrap_or_default()
    }

    /// A hash of all that a step depends on, besides what is before it.
    fn input(&mut self, step: &Step) -> Result<Hash> {
        match &step.action {
            Action::Folder(path) => Ok(hash(&[b"folder", path.as_bytes()])),
            Action::Run(Exec { command, env, proxies: _, folder, user, network }) => {
                let text = format!("{command:?} {env:?} {folder:?} {user:?} {network}");
                Ok(hash(&[b"run", text.as_bytes()]))
            }
            Action::Put(put) => {
                let Put { from, sources, to, owner, mode, unpack } = put;
                let text = format!("{sources:?} {to:?} {owner:?} {mode:?} {unpack}");
                let from = match from {
                    Some(Base::Stage(stage)) => self.key_of(*stage),
                    Some(Base::Image(name)) => hash(&[self.images.get(name)?.id.as_bytes()]),
                    Some(Base::Scratch) => Hash::default(),
                    None => self.context_hash(put)?,
                };
                Ok(hash(&[b"put", text.as_bytes(), &from]))
            }
        }
    }

    /// A hash of the files of the context that are copied.
    fn context_hash(&mut self, put: &Put) -> Result<Hash> {
        let mut hasher = blake3::Hasher::new();
        for source in &put.sources {
            let Source::Path(parts) = source else { continue };
            let context = self.context()?;
            let found = copy::find(&context, parts);
            if found.is_empty() {
                return Err(self.not_in_context(parts));
            }
            for (path, place) in found {
                hasher.update(&path).update(&[0]);
                context.hash(place, &mut hasher)?;
            }
        }
        Ok(hasher.finalize().into())
    }

    fn not_in_context(&self, parts: &[String]) -> Error {
        let path = parts.join("/");
        let why = match self.order.context.join(&path).symlink_metadata() {
            Ok(_) => ".dockerignore leaves it out of the context".to_owned(),
            Err(_) => format!("there is no such file in {}", self.order.context.display()),
        };
        Error::entry(path.as_bytes(), why)
    }

    fn context(&mut self) -> Result<Rc<Tree>> {
        if let Some(context) = &self.context {
            return Ok(Rc::clone(context));
        }
        let ignore = context::ignore(&self.order.context, &self.order.file)?;
        let context = Rc::new(context::read(&self.order.context, &ignore)?);
        self.context = Some(Rc::clone(&context));
        Ok(context)
    }

    /// The image: one that was made before from the same, or a new one.
    fn image(mut self, name: &Name) -> Result<Image> {
        let Places { store, progress, .. } = self.places;
        let Some(stage) = self.plan.stages.last() else {
            return Err(Problem::new(0, "there is no FROM in it").within(&self.file));
        };
        let run = serde_json::to_vec(&stage.run)
            .map_err(|error| Error::format(&self.file, error.to_string()))?;
        let key = hash(&[&RECIPE.to_le_bytes(), &self.key_of(stage.index), &run]);
        let source_id = format!("dockerfile:{}", blake3::Hash::from(key).to_hex());
        if !self.order.no_cache {
            let same = |image: &Image| {
                image.record.source_id.as_ref() == Some(&source_id)
                    && image.record.recipe == self.order.recipe
            };
            if let Some(image) = store.images()?.into_iter().find(same) {
                stage.steps.iter().zip(0..).for_each(|(step, at)| self.tell(stage, step, at, true));
                store.tag(&image.id, name)?;
                return store.find(&image.id);
            }
        }
        let tree = self.stage(stage.index)?;
        self.done.clear();
        let tree = Rc::try_unwrap(tree).or_else(|shared| shared.duplicate())?;
        let folder = store.work()?;
        let written = ext4::write(tree, &self.order.recipe, &Store::disk_in(&folder), progress)?;
        progress.done();
        let record = Record {
            source: self.file.clone(),
            source_id: Some(source_id),
            recipe: self.order.recipe.clone(),
            size: written.size,
            free: written.free,
            run: stage.run.clone(),
        };
        let image = store.add(folder, &written, &record, name)?;
        shrink(store.steps(), STEPS_MAX)?;
        Ok(image)
    }

    /// The files of a stage, which is done if it was not.
    fn stage(&mut self, index: usize) -> Result<Rc<Tree>> {
        if let Some(tree) = self.done.get(&index) {
            return Ok(Rc::clone(tree));
        }
        let missing = || Error::format(&self.file, format!("stage {index} was not planned"));
        let plan = self.plan;
        let stage = plan.stages.iter().find(|stage| stage.index == index).ok_or_else(missing)?;
        let keys = self.keys.get(&index).cloned().unwrap_or_default();
        let (begin, mut files) = match self.newest_run(stage, &keys)? {
            Some((step, entry)) => (step + 1, Files::Disk(entry.file(DISK))),
            None => (0, Files::Tree(self.base(stage)?)),
        };
        // What is copied from is done before, so that its steps are not told in the middle.
        for step in &stage.steps[begin..] {
            if let Action::Put(Put { from: Some(Base::Stage(other)), .. }) = &step.action {
                self.stage(*other)?;
            }
        }
        for (at, step) in stage.steps.iter().enumerate() {
            self.tell(stage, step, at, at < begin);
            if at >= begin {
                let key = keys.get(at + 1).copied().unwrap_or_default();
                files = self.step(step, key, files).map_err(|error| self.at(step, error))?;
            }
        }
        let tree = Rc::new(files.tree()?);
        self.done.insert(index, Rc::clone(&tree));
        Ok(tree)
    }

    /// The last `RUN` of a stage whose disk was kept.
    fn newest_run(&self, stage: &Stage, keys: &[Hash]) -> Result<Option<(usize, Entry)>> {
        if self.order.no_cache {
            return Ok(None);
        }
        let runs = stage.steps.iter().zip(keys.iter().skip(1)).enumerate().rev();
        for (at, (step, key)) in runs {
            if matches!(step.action, Action::Run(_))
                && let Some(entry) = self.places.store.steps().find(&entry_key(key))
            {
                // Its age decides when it goes.
                let manifest = File::open(entry.file("manifest"));
                let touched = manifest.and_then(|file| file.set_modified(SystemTime::now()));
                drop(touched);
                return Ok(Some((at, entry)));
            }
        }
        Ok(None)
    }

    fn base(&mut self, stage: &Stage) -> Result<Tree> {
        match &stage.base {
            Base::Scratch => Ok(Tree::new()),
            Base::Stage(other) => self.stage(*other)?.duplicate(),
            Base::Image(name) => Tree::of_disk(&self.images.get(name)?.disk),
        }
    }

    fn step(&mut self, step: &Step, key: Hash, files: Files) -> Result<Files> {
        match &step.action {
            Action::Folder(path) => {
                let mut tree = files.tree()?;
                let path = path.trim_matches('/');
                if !path.is_empty() {
                    copy::folders(&mut tree, path.as_bytes(), None)?;
                }
                Ok(Files::Tree(tree))
            }
            Action::Put(put) => {
                let from = match &put.from {
                    None => self.context()?,
                    Some(Base::Stage(stage)) => self.stage(*stage)?,
                    Some(Base::Image(name)) => self.image_tree(name)?,
                    Some(Base::Scratch) => Rc::new(Tree::new()),
                };
                let mut tree = files.tree()?;
                copy::put(&mut tree, put, &from, self.work.path())?;
                Ok(Files::Tree(tree))
            }
            Action::Run(command) => self.run(step, command, key, files),
        }
    }

    fn image_tree(&mut self, name: &str) -> Result<Rc<Tree>> {
        if let Some(tree) = self.image_trees.get(name) {
            return Ok(Rc::clone(tree));
        }
        let tree = Rc::new(Tree::of_disk(&self.images.get(name)?.disk)?);
        self.image_trees.insert(name.to_owned(), Rc::clone(&tree));
        Ok(tree)
    }

    fn run(&self, step: &Step, command: &Exec, key: Hash, files: Files) -> Result<Files> {
        let Places { store, runner, progress, .. } = self.places;
        let steps = store.steps();
        let key = entry_key(&key);
        if self.order.no_cache
            && let Some(entry) = steps.find(&key)
        {
            entry.remove()?;
        }
        let entry = steps.entry(&key, |folder| {
            let disk = folder.join(DISK);
            files.into_disk(&disk, progress)?;
            progress.done();
            let ended = runner.run(&disk, command);
            // The guest may not have noticed that what it wrote last went nowhere.
            if ended != Ended::Interrupted && self.is_full() {
                let root = self.places.store.root().display();
                return Err(self.failed(step, &format!("the host's disk is full, at {root}")));
            }
            let why = match ended {
                Ended::Interrupted => return Err(Error::Interrupted),
                Ended::Status(0) => return Ok(Vec::new()),
                Ended::Status(status) => format!("the command ended with status {status}"),
                Ended::TimedOut(seconds) => {
                    format!("it was stopped after {seconds} s; --timeout gives it more")
                }
                Ended::Failed(why) => why,
            };
            Err(self.failed(step, &why))
        })?;
        Ok(Files::Disk(entry.file(DISK)))
    }

    fn failed(&self, step: &Step, why: &str) -> Error {
        let why = format!("{}: {why}", step.text);
        Error::Dockerfile { file: self.file.clone(), line: step.line, why }
    }

    fn is_full(&self) -> bool {
        let room = rustix::fs::statvfs(self.work.path());
        room.is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) < ROOM_MIN)
    }

    fn tell(&self, stage: &Stage, step: &Step, at: usize, cached: bool) {
        let position = Position { stage: stage.index + 1, number: at + 1, of: stage.steps.len() };
        self.places.listener.step(step, &position, cached);
    }

    fn at(&self, step: &Step, error: Error) -> Error {
        at(&self.file, step.line, &step.text, error)
    }
}

impl Files {
    fn tree(self) -> Result<Tree> {
        match self {
            Files::Tree(tree) => Ok(tree),
            Files::Disk(path) => Tree::of_disk(&path),
        }
    }

    /// Makes a disk that a machine can write to, with room.
    fn into_disk(self, path: &Path, progress: &dyn Progress) -> Result<()> {
        match self {
            Files::Tree(tree) => {
                let recipe = Recipe { size_mib: Some(RUN_DISK_MIB), no_journal: false };
                ext4::write(tree, &recipe, path, progress).map(drop)
            }
            Files::Disk(from) => {
                let source = File::open(&from).map_err(Error::file("open", &from))?;
                let to = File::create_new(path).map_err(Error::file("make", path))?;
                disk::copy(&source, &to).map_err(Error::file("write", path))
            }
        }
    }
}

fn entry_key(hash: &Hash) -> Key {
    Key::new(KIND, RECIPE).with("steps", hash)
}

/// Lengths are hashed too, so that parts cannot run together.
fn hash(parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().into()
}

/// Says at which step it was.
fn at(file: &str, line: u32, text: &str, error: Error) -> Error {
    match error {
        // Of a stage that this step needs, or of the user.
        Error::Dockerfile { .. } | Error::Interrupted => error,
        error => Error::Dockerfile { file: file.to_owned(), line, why: format!("{text}: {error}") },
    }
}
