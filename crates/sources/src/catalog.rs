//! What a source says, and the World that makes: last good versions, confirmed removals, one file per object. Pure:
//! it is fed contents and points in time. An object of the Kubernetes API is a file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::World;
use evenkeel_plan::world::{Gaps, Kind, NodeAddressUse, Object, ObjectKey, ObjectName, Service};
use imbl::OrdMap;

use crate::diagnostic::{Diagnostic, Location, Severity};
use crate::manifest::{self, MAX_FINDINGS, MAX_MESSAGE, Parsed, Places, Position, cut};

/// How long an object has to be absent before it is removed.
pub const REMOVAL_DELAY: Duration = Duration::from_millis(200);
/// How long, when more than half of all objects are absent: more likely an accident than a wish.
pub const MASS_REMOVAL_DELAY: Duration = Duration::from_secs(2);
/// Deletions that an API server reports one by one within this time happen at once.
const WINDOW: Duration = Duration::from_secs(2);

/// What was looked at before a [`Catalog::settle`]: whatever is absent from it is gone as far as anybody can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Everything, at the time of the call.
    AtEverything,
    /// All objects of a kind, not before this time on the clock of [`Catalog::settle`].
    At(Kind, Duration),
    /// Nothing in full: there was news of single objects.
    AtNothing,
}

impl Looked {
    /// Since when it is known which objects of a kind there are.
    fn at(self, kind: Kind, now: Duration) -> Option<Duration> {
        match self {
            Self::AtEverything => Some(now),
            Self::At(looked, began) => (looked == kind).then_some(began),
            Self::AtNothing => None,
        }
    }
}

/// Since when an object is absent.
#[derive(Clone, Copy, Debug)]
struct Absence {
    since: Duration,
    /// The source said so, as opposed to not mentioning it any more.
    told: bool,
}

/// How many objects of a kind were deleted, one after the other, out of how many.
#[derive(Clone, Copy, Debug)]
struct Deletions {
    since: Duration,
    of: usize,
    removed: usize,
}

/// How far a kind of configuration is put back of which an API had nothing: whoever does that posts one object after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Return {
    /// The kind's definition was deleted, and with it the objects: that was no wish concerning those.
    undefined: bool,
    /// When the first object was there again; `None`: there is none yet.
    since: Option<Duration>,
}

impl Return {
    /// When a look shows what is put back and what is not.
    fn complete_at(self) -> Option<Duration> {
        self.since.map(|since| since + MASS_REMOVAL_DELAY)
    }

    /// The objects that went with the definition are still waited for, and nobody can see whether they are wanted.
    fn is_awaited(self) -> bool {
        self.undefined && self.since.is_none()
    }
}

/// The files' contents and the World they make. What a change costs depends on the file that changed, not on the others.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Each object is watched by itself, so kinds are judged one by one.
    by_kind: bool,
    files: BTreeMap<Arc<Path>, File>,
    /// Where each object is defined, in path order.
    mentions: BTreeMap<ObjectKey, Vec<Mention>>,
    /// The objects about which a file says something else since the last [`Catalog::settle`].
    touched: BTreeSet<ObjectKey>,
    live: OrdMap<ObjectKey, Live>,
    /// The live objects that are in no file, with the time at which that was first found, on the clock of
    /// [`Catalog::settle`].
    absent: BTreeMap<ObjectKey, Absence>,
    /// The objects the source says are deleted, since the last [`Catalog::settle`].
    told: BTreeSet<ObjectKey>,
    /// How many objects of each kind are live.
    counts: BTreeMap<Kind, usize>,
    /// The latest deletions of each kind.
    deletions: BTreeMap<Kind, Deletions>,
    /// The kinds of which an API had nothing: pools in any case, because addresses hang on them, and those whose definition was
    /// deleted. Until a look shows all that is put back.
    returns: BTreeMap<Kind, Return>,
    /// The kinds of which an API has shown an object since the last [`Catalog::settle`].
    arrived: BTreeSet<Kind>,
    /// The files with findings, those that name kinds which are skipped, and the objects defined more than once: all
    /// there is to look through for [`Catalog::diagnostics`].
    noisy: BTreeSet<Arc<Path>>,
    skipping: BTreeMap<String, BTreeSet<Arc<Path>>>,
    duplicated: BTreeSet<ObjectKey>,
    /// Findings may differ since the last [`Catalog::settle`].
    news: bool,
    /// Where more than half of all objects wait to be removed, of a kind or of all kinds together: how many are absent,
    /// and how many there are.
    vanishing: BTreeMap<Option<Kind>, (usize, usize)>,
    /// When a look at a kind would confirm that objects are removed.
    rechecks: BTreeMap<Kind, Duration>,
    versions: u64,
    /// How many objects the last [`Catalog::settle`] had to consider.
    considered: usize,
    world: Arc<World>,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Debug)]
struct File {
    parsed: Parsed,
    /// Tells one content from another.
    version: u64,
}

/// One definition of an object: a document of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mention {
    file: Arc<Path>,
    document: usize,
}

/// An object in its last good version.
#[derive(Clone, Debug)]
struct Live {
    object: Object,
    file: Arc<Path>,
    places: Arc<Places>,
    /// The version of the file the places are in.
    version: u64,
}

/// Where each object of a World stands. A copy shares everything with the catalog's own.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts(OrdMap<ObjectKey, Live>);

impl Whereabouts {
    /// A finding about objects of the World, with the place where the object stands.
    pub fn locate(&self, finding: &evenkeel_plan::Diagnostic) -> Diagnostic {
        let live = of_finding(&self.0, finding);
        let at = live.and_then(|live| live.places.of(&finding.field).or_else(|| live.places.object()));
        Diagnostic {
            // An object of an API has no place but its name.
            location: location(live.filter(|_| at.is_some()).map_or(Path::new(""), |live| &*live.file), at),
            severity: finding.severity,
            reason: finding.reason,
            kind: finding.kind.to_string(),
            name: finding.name.clone(),
            field: finding.field.clone(),
            message: cut(&finding.message, MAX_MESSAGE),
            remedy: cut(&finding.remedy, MAX_MESSAGE),
            snippet: None,
        }
    }
}

fn of_finding<'a>(live: &'a OrdMap<ObjectKey, Live>, finding: &evenkeel_plan::Diagnostic) -> Option<&'a Live> {
    let (namespace, name) = finding.name.split_once('/').unwrap_or(("", &finding.name));
    live.get(&ObjectKey { kind: finding.kind, name: ObjectName::new(namespace, name) })
}

/// What [`Catalog::settle`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The World or the diagnostics are others than before.
    pub changed: bool,
    /// Objects are absent that a look at the files at this time, or later, would confirm as removed.
    pub recheck_at: Option<Duration>,
}

/// What the files want with an object.
enum Wish {
    /// This version.
    Version(Live),
    /// Its present version is to stay: the new one cannot be read.
    Keep,
}

impl Catalog {
    /// A catalog of a Kubernetes API: files are single objects, which may be reported as deleted. Configuration lives in
    /// this namespace.
    pub fn of_api(namespace: &str, node_address_use: NodeAddressUse) -> Self {
        let world = World { system_namespace: Some(namespace.to_owned()), node_address_use, ..World::default() };
        Self { by_kind: true, world: Arc::new(world), ..Self::default() }
    }

    /// An object of an API is this version.
    pub(crate) fn set_object(&mut self, path: &Path, parsed: Parsed) {
        self.arrived.extend(parsed.documents.iter().map(|document| document.key.kind));
        self.set(path, parsed);
    }

    /// The API has no such kind any more, of which it had objects. They stay in force until it is known which of them are put
    /// back: not before the first is, because a definition that has just returned has none of them.
    pub(crate) fn undefine(&mut self, kind: Kind) {
        self.returns.insert(kind, Return { undefined: true, since: None });
        self.arrived.remove(&kind);
        self.news = true;
    }

    /// The API says that an object is deleted.
    pub fn delete_object(&mut self, path: &Path) {
        let keys: Vec<ObjectKey> = self.keys_of(path).cloned().collect();
        self.told.extend(keys);
        self.forget(path);
    }

    /// When a look at each kind would confirm that objects are removed, on the clock of [`Catalog::settle`].
    pub fn rechecks(&self) -> &BTreeMap<Kind, Duration> {
        &self.rechecks
    }

    /// A file has this content.
    pub fn set_file(&mut self, path: &Path, content: &[u8]) {
        self.set(path, manifest::parse(path, content));
    }

    /// A file is there but cannot be read: what it defined stays.
    pub fn set_unreadable(&mut self, path: &Path, why: &str) {
        let message = format!("the file cannot be read: {why}");
        let remedy = "make it readable, or remove it";
        let diagnostic = Diagnostic::about_file(path, Severity::Error, "file_unreadable", message, remedy);
        self.set(path, Parsed::unreadable(diagnostic));
    }

    fn set(&mut self, path: &Path, parsed: Parsed) {
        let path: Arc<Path> = path.into();
        self.forget(&path);
        let mut mentions: BTreeMap<&ObjectKey, Vec<Mention>> = BTreeMap::new();
        for (document, read) in parsed.documents.iter().enumerate() {
            mentions.entry(&read.key).or_default().push(Mention { file: Arc::clone(&path), document });
        }
        for (key, new) in mentions {
            let all = self.mentions.entry(key.clone()).or_default();
            all.extend(new);
            all.sort();
            self.touched.insert(key.clone());
        }
        if parsed.incomplete {
            self.touch_live(&path);
        }
        if !parsed.diagnostics.is_empty() {
            self.noisy.insert(Arc::clone(&path));
        }
        for what in parsed.skipped.keys() {
            self.skipping.entry(what.clone()).or_default().insert(Arc::clone(&path));
        }
        self.versions += 1;
        self.files.insert(path, File { parsed, version: self.versions });
    }

    /// A file is no longer there.
    pub fn remove_file(&mut self, path: &Path) {
        self.forget(path);
    }

    /// Take out all that a file says.
    fn forget(&mut self, path: &Path) {
        self.news = true;
        let Some(file) = self.files.remove(path) else { return };
        let keys: BTreeSet<ObjectKey> = file.parsed.documents.into_iter().map(|document| document.key).collect();
        for key in keys {
            if let Some(mentions) = self.mentions.get_mut(&key) {
                mentions.retain(|mention| *mention.file != *path);
                if mentions.is_empty() {
                    self.mentions.remove(&key);
                }
            }
            self.touched.insert(key);
        }
        if file.parsed.incomplete {
            self.touch_live(path);
        }
        self.noisy.remove(path);
        for what in file.parsed.skipped.keys() {
            if let Some(files) = self.skipping.get_mut(what) {
                files.remove(path);
            }
        }
    }

    /// A file that is not understood in full may define whatever it did before.
    fn touch_live(&mut self, path: &Path) {
        let live = self.live.iter().filter(|(_, live)| *live.file == *path);
        self.touched.extend(live.map(|(key, _)| key.clone()));
    }

    /// The objects a file defines.
    pub(crate) fn keys_of(&self, path: &Path) -> impl Iterator<Item = &ObjectKey> {
        self.files.get(path).into_iter().flat_map(|file| &file.parsed.documents).map(|document| &document.key)
    }

    /// The files known.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|path| &**path)
    }

    /// The World as of the last [`Catalog::settle`].
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// The findings as of the last [`Catalog::settle`], by file and line.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// How many objects the last [`Catalog::settle`] had to consider: those of the files that changed.
    pub fn considered(&self) -> usize {
        self.considered
    }

    /// All files have been looked at, at the time `now` on any clock that does not go back. Additions and changes
    /// apply at once; an object no file has any more is removed when it is still absent a while later.
    pub fn settle(&mut self, now: Duration) -> Settled {
        self.settle_after(Looked::AtEverything, now)
    }

    /// The same, after a look at less than everything.
    pub fn settle_after(&mut self, looked: Looked, now: Duration) -> Settled {
        let mut world = None;
        self.considered = self.touched.len();
        self.follow_returns(looked, now);
        for key in std::mem::take(&mut self.touched) {
            self.apply(key, now, &mut world);
        }
        self.told.clear();
        let (removed, recheck_at) = self.remove_absent(looked, now);
        for key in &removed {
            world.get_or_insert_with(|| World::clone(&self.world)).remove(key);
        }
        if self.news {
            let gaps = self.gaps();
            if gaps != self.world.gaps {
                world.get_or_insert_with(|| World::clone(&self.world)).gaps = gaps;
            }
        }
        let world_changed = world.is_some();
        if let Some(world) = world {
            self.world = Arc::new(world);
        }
        let mut changed = world_changed;
        if std::mem::take(&mut self.news) {
            let diagnostics = self.collect_diagnostics();
            changed |= diagnostics != self.diagnostics;
            self.diagnostics = diagnostics;
        }
        Settled { changed, recheck_at }
    }

    /// Note of which kinds an API has objects again, and of which it has none.
    fn follow_returns(&mut self, looked: Looked, now: Duration) {
        if !self.by_kind {
            return;
        }
        for kind in std::mem::take(&mut self.arrived) {
            if let Some(returns) = self.returns.get_mut(&kind) {
                returns.since = returns.since.or(Some(now));
            }
        }
        let kinds: BTreeSet<Kind> = self.returns.keys().copied().chain([Kind::IpAddressPool]).collect();
        for kind in kinds.into_iter().filter(|kind| !has_any(&self.mentions, *kind)) {
            self.returns.entry(kind).or_default().since = None;
        }
        let is_complete = |kind: Kind, returns: Return| {
            let at = returns.complete_at();
            at.is_some_and(|at| looked.at(kind, now).is_some_and(|looked| looked >= at))
        };
        let before = self.returns.len();
        self.returns.retain(|kind, returns| !is_complete(*kind, *returns));
        self.news |= self.returns.len() != before;
    }

    /// What cannot be read, and is not live in an earlier version either. Pools that are put back are not all there yet.
    fn gaps(&self) -> Gaps {
        let pools = self.returns.get(&Kind::IpAddressPool).is_some_and(|returns| returns.since.is_some());
        let mut gaps = Gaps { pools, ..Gaps::default() };
        for file in self.noisy.iter().filter_map(|path| self.files.get(path)) {
            if file.parsed.incomplete {
                return Gaps::ALL;
            }
            let broken = file.parsed.documents.iter().filter(|document| document.object.is_none());
            for key in broken.map(|document| &document.key).filter(|key| !self.live.contains_key(*key)) {
                gaps.services |= key.kind == Kind::Service;
                gaps.pools |= key.kind == Kind::IpAddressPool;
                gaps.advertisements |= key.kind == Kind::L2Advertisement;
                gaps.endpoints |= matches!(key.kind, Kind::EndpointSlice | Kind::Endpoints);
            }
        }
        gaps
    }

    /// Do with an object what the files want.
    fn apply(&mut self, key: ObjectKey, now: Duration, world: &mut Option<World>) {
        if self.mentions.get(&key).is_some_and(|mentions| mentions.len() > 1) {
            self.duplicated.insert(key.clone());
        } else {
            self.duplicated.remove(&key);
        }
        match self.wish(&key) {
            None if self.live.contains_key(&key) => {
                let told = self.told.contains(&key);
                self.absent.entry(key).or_insert(Absence { since: now, told }).told |= told;
            }
            None => {}
            Some(Wish::Keep) => _ = self.absent.remove(&key),
            Some(Wish::Version(new)) => {
                self.absent.remove(&key);
                if self.live.get(&key).is_none_or(|live| live.object != new.object) {
                    let world = world.get_or_insert_with(|| World::clone(&self.world));
                    world.insert(key.name.clone(), new.object.clone());
                }
                let kind = key.kind;
                if self.live.insert(key, new).is_none() {
                    *self.counts.entry(kind).or_default() += 1;
                }
            }
        }
    }

    /// What an object is to be. The first file in path order that mentions it decides, or that may do so: one that
    /// cannot be understood in full.
    fn wish(&self, key: &ObjectKey) -> Option<Wish> {
        let live = self.live.get(key);
        let unclear =
            live.map(|live| &live.file).filter(|file| self.files.get(*file).is_some_and(|f| f.parsed.incomplete));
        let Some(mention) = self.mentions.get(key).and_then(|mentions| mentions.first()) else {
            return unclear.map(|_| Wish::Keep);
        };
        if unclear.is_some_and(|file| *file < mention.file) {
            return Some(Wish::Keep);
        }
        let file = self.files.get(&mention.file)?;
        let document = file.parsed.documents.get(mention.document)?;
        match &document.object {
            Some(object) => Some(Wish::Version(Live {
                object: completed(object, live),
                file: Arc::clone(&mention.file),
                places: Arc::clone(&document.places),
                version: file.version,
            })),
            None => live.map(|_| Wish::Keep),
        }
    }

    /// Remove what has been absent for long enough. Returns what was, and when to look again.
    fn remove_absent(&mut self, looked: Looked, now: Duration) -> (Vec<ObjectKey>, Option<Duration>) {
        let vanishing = self.vanishing(now);
        let group = |key: &ObjectKey| self.by_kind.then_some(key.kind);
        // The look it takes to remove an object; `None`: it is known to be gone.
        let needed = |key: &ObjectKey, absence: &Absence| {
            let at_once = absence.told && !key.kind.is_configuration();
            let delay = match (vanishing.contains_key(&group(key)), at_once) {
                (false, true) => return None,
                (true, true) => Duration::ZERO,
                (false, false) => REMOVAL_DELAY,
                (true, false) => MASS_REMOVAL_DELAY,
            };
            Some(absence.since + delay)
        };
        let mut removed = Vec::new();
        let mut rechecks: BTreeMap<Kind, Duration> = BTreeMap::new();
        for (key, absence) in &self.absent {
            let undefined = self.returns.get(&key.kind).copied().filter(|returns| returns.undefined);
            if undefined.is_some_and(Return::is_awaited) {
                continue;
            }
            match needed(key, absence).max(undefined.and_then(Return::complete_at)) {
                Some(at) if looked.at(key.kind, now).is_none_or(|looked| looked < at) => {
                    rechecks.entry(key.kind).and_modify(|earliest| *earliest = at.min(*earliest)).or_insert(at);
                }
                Some(_) | None => removed.push(key.clone()),
            }
        }
        let waiting = |group: &Option<Kind>| match group {
            Some(kind) => rechecks.contains_key(kind),
            None => !rechecks.is_empty(),
        };
        let vanishing: BTreeMap<_, _> = vanishing.into_iter().filter(|(group, _)| waiting(group)).collect();
        self.news |= vanishing != self.vanishing;
        self.vanishing = vanishing;
        for (kind, at) in self.returns.iter().filter_map(|(kind, returns)| Some((*kind, returns.complete_at()?))) {
            rechecks.entry(kind).and_modify(|earliest| *earliest = at.min(*earliest)).or_insert(at);
        }
        self.rechecks = rechecks;
        for key in &removed {
            self.absent.remove(key);
            self.live.remove(key);
            if let Some(count) = self.counts.get_mut(&key.kind) {
                *count = count.saturating_sub(1);
            }
            if let Some(deletions) = self.deletions.get_mut(&key.kind) {
                deletions.removed += 1;
            }
        }
        (removed, self.rechecks.values().min().copied())
    }

    /// Where more than half of what there is vanishes at once: how much of how much.
    fn vanishing(&mut self, now: Duration) -> BTreeMap<Option<Kind>, (usize, usize)> {
        let mut vanishing = BTreeMap::new();
        if !self.by_kind {
            let (absent, all) = (self.absent.len(), self.live.len());
            vanishing.extend((absent * 2 > all).then_some((None, (absent, all))));
            return vanishing;
        }
        let mut absent: BTreeMap<Kind, usize> = BTreeMap::new();
        for key in self.absent.keys() {
            *absent.entry(key.kind).or_default() += 1;
        }
        for (kind, absent) in absent {
            let all = self.counts.get(&kind).copied().unwrap_or_default();
            let fresh = Deletions { since: now, of: all, removed: 0 };
            let deletions = self.deletions.entry(kind).or_insert(fresh);
            if now >= deletions.since + WINDOW {
                *deletions = fresh;
            }
            let of = deletions.of.max(all + deletions.removed);
            let gone = absent + deletions.removed;
            vanishing.extend((gone * 2 > of).then_some((Some(kind), (gone, of))));
        }
        vanishing
    }

    fn collect_diagnostics(&self) -> Vec<Diagnostic> {
        let parsed = |path: &Arc<Path>| self.files.get(path).map(|file| &file.parsed);
        let mut diagnostics: Vec<Diagnostic> =
            self.noisy.iter().filter_map(parsed).flat_map(|parsed| &parsed.diagnostics).cloned().collect();
        // Each kind that is not part of the World, at the first place it stands at.
        for (what, files) in &self.skipping {
            let first = files.first().and_then(parsed).and_then(|parsed| parsed.skipped.get(what));
            diagnostics.extend(first.cloned());
        }
        self.collect_duplicates(&mut diagnostics);
        for (group, (absent, all)) in &self.vanishing {
            diagnostics.push(match group {
                Some(kind) => mass_deletion(*kind, *absent, *all),
                None => {
                    let first = self.absent.keys().next().and_then(|key| self.live.get(key));
                    mass_removal(first.map_or(Path::new(""), |live| &*live.file), *absent, *all)
                }
            });
        }
        for (kind, _) in self.returns.iter().filter(|(_, returns)| returns.is_awaited()) {
            let kept = self.absent.keys().filter(|key| key.kind == *kind).count();
            diagnostics.extend((kept > 0).then(|| lost_with_definition(*kind, kept)));
        }
        diagnostics.sort();
        diagnostics.dedup();
        diagnostics
    }

    fn collect_duplicates(&self, diagnostics: &mut Vec<Diagnostic>) {
        let mut counts: BTreeMap<&Path, usize> = BTreeMap::new();
        let mentions = self.duplicated.iter().filter_map(|key| Some((key, self.mentions.get(key)?)));
        for (key, mentions) in mentions {
            let Some((first, others)) = mentions.split_first() else { continue };
            for other in others {
                let count = counts.entry(&*other.file).or_default();
                *count += 1;
                if *count <= MAX_FINDINGS {
                    diagnostics.push(self.duplicate(key, other, first));
                }
            }
        }
        let too_many = counts.into_iter().filter(|(_, count)| *count > MAX_FINDINGS);
        diagnostics
            .extend(too_many.map(|(file, count)| manifest::more_findings(file, Severity::Error, count - MAX_FINDINGS)));
    }

    fn duplicate(&self, key: &ObjectKey, later: &Mention, earlier: &Mention) -> Diagnostic {
        let place = |mention: &Mention| {
            let file = self.files.get(&mention.file)?;
            file.parsed.documents.get(mention.document)?.places.object()
        };
        let line = |mention: &Mention| format!("{}:{}", mention.file.display(), place(mention).map_or(0, |at| at.line));
        let at = place(later);
        Diagnostic {
            location: location(&later.file, at),
            severity: Severity::Error,
            reason: "duplicate_object",
            kind: key.kind.to_string(),
            name: key.name.to_string(),
            field: "metadata.name".to_owned(),
            message: format!("{key} is already defined at {}, which is used; not {}", line(earlier), line(later)),
            remedy: "keep one of the two".to_owned(),
            snippet: at.and_then(|at| self.files.get(&later.file)?.parsed.text.snippet(at)),
        }
    }

    /// Where each object of the World stands.
    pub fn whereabouts(&self) -> Whereabouts {
        Whereabouts(self.live.clone())
    }

    /// A finding about objects of the World, with the place where the object stands, and the line there.
    pub fn locate(&self, finding: &evenkeel_plan::Diagnostic) -> Diagnostic {
        let live = of_finding(&self.live, finding);
        let at = live.and_then(|live| live.places.of(&finding.field).or_else(|| live.places.object()));
        // A last good version is no longer what the file shows.
        let text = live.and_then(|live| {
            let file = self.files.get(&live.file).filter(|file| file.version == live.version)?;
            Some(&file.parsed.text)
        });
        Diagnostic {
            snippet: text.zip(at).and_then(|(text, at)| text.snippet(at)),
            ..self.whereabouts().locate(finding)
        }
    }
}

/// Whether anything of a kind is mentioned.
fn has_any(mentions: &BTreeMap<ObjectKey, Vec<Mention>>, kind: Kind) -> bool {
    let first = ObjectKey { kind, name: ObjectName::new("", "") };
    mentions.range(first..).next().is_some_and(|(key, _)| key.kind == kind)
}

/// An object with what cannot be read of it as it was in its last version.
fn completed(object: &Object, live: Option<&Live>) -> Object {
    match (object, live.map(|live| &live.object)) {
        (Object::Service(new), Some(Object::Service(earlier))) if new.requested.unread.is_some() => {
            let mut new = Service::clone(new);
            new.keep_wishes_of(earlier);
            Object::Service(new.into())
        }
        _ => object.clone(),
    }
}

fn location(file: &Path, at: Option<Position>) -> Location {
    Location { file: file.to_owned(), line: at.map_or(0, |at| at.line), column: at.map_or(0, |at| at.column) }
}

fn mass_removal(file: &Path, absent: usize, all: usize) -> Diagnostic {
    let message = format!("{absent} of {all} objects vanished at once; they are kept for {MASS_REMOVAL_DELAY:?} more");
    let remedy = "restore the files if this was not intended";
    Diagnostic::about_file(file, Severity::Warning, "mass_removal", message, remedy)
}

fn mass_deletion(kind: Kind, absent: usize, all: usize) -> Diagnostic {
    let message = format!("{absent} of {all} {kind} objects vanished at once; they are kept until a list confirms it");
    about_kind(kind, message, "restore them if this was not intended")
}

fn lost_with_definition(kind: Kind, count: usize) -> Diagnostic {
    let message = format!("{count} {kind} objects vanished with their definition; they are kept until one is back");
    let remedy = "restore them; if they are to go, create one of them and delete it some seconds later";
    about_kind(kind, message, remedy)
}

fn about_kind(kind: Kind, message: String, remedy: &str) -> Diagnostic {
    let whole = Diagnostic::about_file(Path::new(""), Severity::Warning, "mass_removal", message, remedy);
    Diagnostic { kind: kind.to_string(), ..whole }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn pool(name: &str, range: &str) -> String {
        format!(
            "---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}}}\nspec:\n  addresses: [{range}]\n"
        )
    }

    fn advertisement(pools: &str) -> String {
        format!(
            "---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: l}}\nspec:\n  ipAddressPools: [{pools}]\n"
        )
    }

    fn pools(names: &[&str]) -> String {
        names.iter().enumerate().map(|(n, name)| pool(name, &format!("10.0.{n}.0/24"))).collect()
    }

    fn set(catalog: &mut Catalog, path: &str, content: &str) {
        catalog.set_file(Path::new(path), content.as_bytes());
    }

    /// The pools of the World with their first addresses.
    fn known(catalog: &Catalog) -> Vec<String> {
        let pools = catalog.world().pools.values();
        pools.map(|pool| format!("{} {}", pool.name.name, pool.ranges[0].first())).collect()
    }

    fn reasons(catalog: &Catalog) -> Vec<&str> {
        catalog.diagnostics().iter().map(|diagnostic| diagnostic.reason).collect()
    }

    fn with(files: &[(&str, &str)]) -> Catalog {
        let mut catalog = Catalog::default();
        for (path, content) in files {
            set(&mut catalog, path, content);
        }
        assert!(catalog.settle(ms(0)).changed);
        catalog
    }

    #[test]
    fn additions_and_changes_apply_at_once() {
        let mut catalog = with(&[("a.yaml", &pool("a", "10.0.0.0/24"))]);
        assert_eq!(known(&catalog), ["a 10.0.0.0"]);
        set(&mut catalog, "a.yaml", &pool("a", "10.0.7.0/24"));
        set(&mut catalog, "b.yaml", &pool("b", "10.0.1.0/24"));
        assert_eq!(catalog.settle(ms(1)), Settled { changed: true, recheck_at: None });
        assert_eq!(known(&catalog), ["a 10.0.7.0", "b 10.0.1.0"]);
    }

    #[test]
    fn nothing_new_is_no_change() {
        let mut catalog = with(&[("a.yaml", &pool("a", "10.0.0.0/24"))]);
        let world = Arc::clone(catalog.world());
        set(&mut catalog, "a.yaml", &format!("# a comment\n{}", pool("a", "10.0.0.0/24")));
        assert_eq!(catalog.settle(ms(1)), Settled { changed: false, recheck_at: None });
        assert!(Arc::ptr_eq(&world, catalog.world()));
    }

    #[test]
    fn what_could_never_be_read_is_a_gap_in_the_world() {
        let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: Nonsense}\n";
        let gaps = |content: &str| with(&[("a.yaml", content)]).world().gaps;
        assert_eq!(gaps(&pool("a", "10.0.0.0/24")), Gaps::default());
        assert_eq!(gaps(&pool("a", "10.0.0.0/99")), Gaps { pools: true, ..Gaps::default() });
        assert_eq!(gaps(&(pool("a", "10.0.0.0/24") + service)), Gaps { services: true, ..Gaps::default() });
        assert_eq!(gaps(&advertisement("lan, lan")), Gaps { advertisements: true, ..Gaps::default() });
        let slice =
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: Nonsense\n";
        assert_eq!(gaps(slice), Gaps { endpoints: true, ..Gaps::default() });
        assert_eq!(gaps("kind: ["), Gaps::ALL);
        let mut catalog = with(&[("a.yaml", &pool("a", "10.0.0.0/24"))]);
        set(&mut catalog, "a.yaml", &pool("a", "10.0.0.0/99"));
        catalog.settle(ms(1));
        assert_eq!(catalog.world().gaps, Gaps::default(), "its last good version is known");
        let mut catalog = with(&[("a.yaml", &advertisement("lan"))]);
        set(&mut catalog, "a.yaml", &advertisement("lan, lan"));
        catalog.settle(ms(1));
        assert_eq!(catalog.world().gaps, Gaps::default(), "and so is that of an advertisement");
    }

    #[test]
    fn the_pools_of_a_directory_are_all_there_at_once() {
        let mut catalog = Catalog::default();
        catalog.settle(ms(0));
        set(&mut catalog, "a.yaml", &pool("a", "10.0.0.0/24"));
        assert_eq!(catalog.settle(ms(1)), Settled { changed: true, recheck_at: None });
        assert_eq!(catalog.world().gaps, Gaps::default());
    }

    #[test]
    fn a_bad_object_keeps_its_last_good_version_and_the_others_move_on() {
        let mut catalog = with(&[("a.yaml", &pools(&["a", "b"]))]);
        set(
            &mut catalog,
            "a.yaml",
            &(pool("a", "10.0.0.0/99") + &pool("b", "10.0.9.0/24") + &pool("c", "10.0.2.0/24")),
        );
        assert_eq!(catalog.settle(ms(1)), Settled { changed: true, recheck_at: None });
        assert_eq!(known(&catalog), ["a 10.0.0.0", "b 10.0.9.0", "c 10.0.2.0"]);
        assert_eq!(reasons(&catalog), ["invalid_range"]);
        assert!(!catalog.settle(ms(10_000)).changed, "bad is not absent");
        set(
            &mut catalog,
            "a.yaml",
            &(pool("a", "10.0.8.0/24") + &pool("b", "10.0.9.0/24") + &pool("c", "10.0.2.0/24")),
        );
        catalog.settle(ms(10_001));
        assert_eq!(known(&catalog), ["a 10.0.8.0", "b 10.0.9.0", "c 10.0.2.0"]);
        assert!(reasons(&catalog).is_empty());
    }

    #[test]
    fn a_document_that_cannot_be_parsed_keeps_what_the_file_defined() {
        let mut catalog = with(&[("a.yaml", &pools(&["a", "b"])), ("z.yaml", &pool("z", "10.9.0.0/24"))]);
        set(&mut catalog, "a.yaml", &("---\nkind: [\n".to_owned() + &pool("b", "10.0.9.0/24")));
        assert_eq!(catalog.settle(ms(1)), Settled { changed: true, recheck_at: None });
        assert_eq!(known(&catalog), ["a 10.0.0.0", "b 10.0.9.0", "z 10.9.0.0"]);
        assert!(!catalog.settle(ms(10_000)).changed);
    }

    #[test]
    fn a_service_of_an_api_keeps_its_last_good_wishes_and_moves_on_otherwise() {
        let mut catalog = Catalog::of_api("lb", NodeAddressUse::of(&[]));
        let mut settled = |annotations: serde_json::Value, kind: &str| {
            let object = serde_json::json!({
                "metadata": {"name": "s", "namespace": "shop", "annotations": annotations},
                "spec": {"type": kind, "ports": [{"port": 80}]},
            });
            catalog.set_object(Path::new("Service/shop/s"), manifest::of_api(Kind::Service, &object));
            catalog.settle_after(Looked::AtNothing, ms(0));
            let world = catalog.world();
            assert_eq!(world.gaps, Gaps::default());
            Service::clone(&world.services[&ObjectName::new("shop", "s")])
        };
        let good = settled(
            serde_json::json!({"evenkeel.io/source-address": "rewrite", "metallb.io/address-pool": "p"}),
            "LoadBalancer",
        );
        let bad = serde_json::json!({"evenkeel.io/source-address": "hide", "evenkeel.io/balancing": "per-packet"});
        let mut kept = settled(bad.clone(), "LoadBalancer");
        assert_eq!(kept.requested.unread.take().map(|unread| unread.reason), Some("invalid_value"));
        assert_eq!(kept, good);
        let other_type = settled(bad, "ClusterIP");
        assert_eq!((other_type.is_load_balancer, other_type.rewrite_source), (false, true));
        let mended = settled(serde_json::json!({"evenkeel.io/balancing": "per-packet"}), "LoadBalancer");
        assert_eq!((mended.rewrite_source, mended.per_packet, mended.requested.unread), (false, true, None));
    }

    #[test]
    fn an_unreadable_file_keeps_what_it_defined() {
        let mut catalog = with(&[("a.yaml", &pools(&["a", "b"]))]);
        catalog.set_unreadable(Path::new("a.yaml"), "permission denied");
        assert_eq!(catalog.settle(ms(1)), Settled { changed: true, recheck_at: None });
        assert_eq!(known(&catalog).len(), 2);
        assert_eq!(reasons(&catalog), ["file_unreadable"]);
    }

    #[test]
    fn a_removal_needs_a_second_look_later() {
        let mut catalog = with(&[("a.yaml", &pools(&["a", "b", "c"]))]);
        set(&mut catalog, "a.yaml", &pools(&["a", "b"]));
        assert_eq!(catalog.settle(ms(1000)), Settled { changed: false, recheck_at: Some(ms(1200)) });
        assert_eq!(catalog.settle(ms(1199)), Settled { changed: false, recheck_at: Some(ms(1200)) });
        assert_eq!(known(&catalog).len(), 3);
        assert_eq!(catalog.settle(ms(1200)), Settled { changed: true, recheck_at: None });
        assert_eq!(known(&catalog).len(), 2);
    }

    #[test]
    fn what_returns_in_time_was_never_gone() {
        let mut catalog = with(&[("a.yaml", &pools(&["a", "b", "c"]))]);
        set(&mut catalog, "a.yaml", &pools(&["a", "b"]));
        catalog.settle(ms(1000));
        set(&mut catalog, "a.yaml", &pools(&["a", "b", "c"]));
        assert_eq!(catalog.settle(ms(1100)), Settled { changed: false, recheck_at: None });
        set(&mut catalog, "a.yaml", &pools(&["a", "b"]));
        assert_eq!(catalog.settle(ms(1250)).recheck_at, Some(ms(1450)), "the wait starts anew");
    }

    #[test]
    fn losing_more_than_half_waits_longer_and_warns() {
        let mut catalog = with(&[("a.yaml", &pools(&["a", "b"])), ("b.yaml", &pool("c", "10.9.0.0/24"))]);
        catalog.remove_file(Path::new("a.yaml"));
        assert_eq!(catalog.settle(ms(0)), Settled { changed: true, recheck_at: Some(ms(2000)) });
        assert_eq!(reasons(&catalog), ["mass_removal"]);
        assert_eq!(known(&catalog).len(), 3);
        assert!(!catalog.settle(ms(1999)).changed);
        assert_eq!(catalog.settle(ms(2000)), Settled { changed: true, recheck_at: None });
        assert_eq!((known(&catalog), reasons(&catalog)), (vec!["c 10.9.0.0".to_owned()], vec![]));
    }

    #[test]
    fn an_object_that_moves_to_another_file_is_not_removed() {
        let mut catalog = with(&[("a.yaml", &pools(&["a", "b", "c"]))]);
        set(&mut catalog, "a.yaml", &pools(&["a", "b"]));
        set(&mut catalog, "b.yaml", &pool("c", "10.0.2.0/24"));
        assert_eq!(catalog.settle(ms(1)), Settled { changed: false, recheck_at: None });
    }

    #[test]
    fn of_two_definitions_the_first_in_path_order_is_used() {
        let mut catalog = with(&[("b.yaml", &pool("a", "10.0.1.0/24")), ("a.yaml", &pool("a", "10.0.0.0/24"))]);
        assert_eq!(known(&catalog), ["a 10.0.0.0"]);
        let diagnostic = &catalog.diagnostics()[0];
        assert_eq!((diagnostic.reason, diagnostic.location.file.as_path()), ("duplicate_object", Path::new("b.yaml")));
        assert!(diagnostic.message.contains("a.yaml:4"), "{}", diagnostic.message);
        catalog.remove_file(Path::new("a.yaml"));
        assert!(catalog.settle(ms(1)).changed);
        assert_eq!((known(&catalog), reasons(&catalog)), (vec!["a 10.0.1.0".to_owned()], vec![]));
    }

    #[test]
    fn a_kind_that_is_skipped_is_named_once() {
        let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
        let catalog = with(&[("a.yaml", &format!("{other}---\n{other}")), ("b.yaml", other)]);
        assert_eq!(reasons(&catalog), ["skipped_kind"]);
        assert_eq!(catalog.diagnostics()[0].severity, Severity::Info);
    }

    #[test]
    fn a_look_costs_what_changed() {
        let mut catalog = Catalog::default();
        for file in 0..100 {
            let pools: String =
                (0..50).map(|n| pool(&format!("p{file}-{n}"), &format!("10.{file}.{n}.0/24"))).collect();
            set(&mut catalog, &format!("{file}.yaml"), &pools);
        }
        catalog.settle(ms(0));
        assert_eq!((catalog.considered(), catalog.world().pools.len()), (5000, 5000));
        set(&mut catalog, "7.yaml", &pool("p7-0", "10.200.0.0/24"));
        assert!(catalog.settle(ms(1)).changed);
        assert_eq!(catalog.considered(), 50, "the pools of one file");
        assert_eq!(catalog.settle(ms(300)), Settled { changed: true, recheck_at: None });
        assert_eq!((catalog.considered(), catalog.world().pools.len()), (0, 4951), "only the clock went on");
        set(&mut catalog, "7.yaml", "kind: [");
        catalog.settle(ms(301));
        assert_eq!((catalog.considered(), catalog.world().pools.len()), (1, 4951));
    }

    #[test]
    fn duplicates_are_all_found_and_not_all_told() {
        let one = pool("a", "10.0.0.0/24");
        let catalog = with(&[("a.yaml", &one), ("b.yaml", &one.repeat(MAX_FINDINGS + 5))]);
        assert_eq!(catalog.diagnostics().len(), MAX_FINDINGS + 1);
        let last = catalog.diagnostics().iter().find(|diagnostic| diagnostic.reason == "more_findings").unwrap();
        assert!(last.message.starts_with("5 more"), "{last:?}");
    }

    proptest! {
        #[test]
        fn step_by_step_is_as_all_at_once(
            edits in proptest::collection::vec(
                (0..5_usize, proptest::collection::vec((0..6_u8, 0..3_u8), 0..4), any::<bool>()), 1..30),
        ) {
            let mut stepwise = Catalog::default();
            let mut files = BTreeMap::new();
            for (n, (file, pools, settle)) in (0..).zip(edits) {
                let path = format!("{file}.yaml");
                let text: String = pools.iter().map(|(name, net)| pool(&format!("p{name}"), &format!("10.{name}.{net}.0/24"))).collect();
                if text.is_empty() {
                    stepwise.remove_file(Path::new(&path));
                    files.remove(&path);
                } else {
                    set(&mut stepwise, &path, &text);
                    files.insert(path, text);
                }
                if settle {
                    stepwise.settle(ms(n * 50));
                }
            }
            // First what is left is found to be absent, then it is absent still.
            stepwise.settle(ms(10_000));
            stepwise.settle(ms(20_000));
            let mut at_once = Catalog::default();
            for (path, text) in &files {
                set(&mut at_once, path, text);
            }
            at_once.settle(ms(0));
            prop_assert_eq!(stepwise.world(), at_once.world());
            prop_assert_eq!(stepwise.diagnostics(), at_once.diagnostics());
        }
    }

    #[test]
    fn findings_about_the_world_get_their_place() {
        let catalog = with(&[("a.yaml", &pools(&["a", "b"]))]);
        let finding = evenkeel_plan::Diagnostic {
            severity: Severity::Error,
            reason: "pool_overlap",
            kind: evenkeel_plan::world::Kind::IpAddressPool,
            name: "b".to_owned(),
            field: "spec.addresses[0]".to_owned(),
            message: String::new(),
            remedy: String::new(),
        };
        let located = catalog.locate(&finding).location;
        assert_eq!((located.file.as_path(), located.line, located.column), (Path::new("a.yaml"), 12, 15));
        assert_eq!(catalog.whereabouts().locate(&finding).location, located, "also without the catalog");
    }
}
