//! What the files say, and the World that makes: last good versions, confirmed removals, one file per object. Pure:
//! it is fed contents and points in time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::World;
use evenkeel_plan::world::{Object, ObjectKey, ObjectName};

use crate::diagnostic::{Diagnostic, Location, Severity};
use crate::manifest::{self, Parsed, Place, Places};

/// How long an object has to be absent before it is removed.
pub const REMOVAL_DELAY: Duration = Duration::from_millis(200);
/// How long, when more than half of all objects are absent: more likely an accident than a wish.
pub const MASS_REMOVAL_DELAY: Duration = Duration::from_secs(2);

/// The files' contents and the World they make.
#[derive(Debug, Default)]
pub struct Catalog {
    files: BTreeMap<PathBuf, Parsed>,
    /// The files whose content is new since the last [`Catalog::settle`]: only there can an object be another.
    touched: BTreeSet<PathBuf>,
    live: BTreeMap<ObjectKey, Live>,
    world: Arc<World>,
    diagnostics: Vec<Diagnostic>,
}

/// An object in its last good version.
#[derive(Debug)]
struct Live {
    object: Object,
    file: PathBuf,
    places: Places,
    /// When it was first found to be in no file, on the clock of [`Catalog::settle`].
    absent_since: Option<Duration>,
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
enum Wish<'a> {
    /// This version.
    Version(&'a Path, &'a Object, &'a Places),
    /// Its present version is to stay: the new one cannot be read.
    Keep,
}

impl Catalog {
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
        self.files.insert(path.to_owned(), parsed);
        self.touched.insert(path.to_owned());
    }

    /// A file is no longer there.
    pub fn remove_file(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The files known.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// The World as of the last [`Catalog::settle`].
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// The findings as of the last [`Catalog::settle`], by file and line.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// All files have been looked at, at the time `now` on any clock that does not go back. Additions and changes
    /// apply at once; an object no file has any more is removed when it is still absent a while later.
    pub fn settle(&mut self, now: Duration) -> Settled {
        let mut diagnostics = Vec::new();
        let wishes = self.wishes(&mut diagnostics);
        let wanted: BTreeSet<ObjectKey> = wishes.keys().map(|key| (*key).clone()).collect();
        let mut news = Vec::new();
        let mut moves = Vec::new();
        for (key, wish) in wishes {
            let Wish::Version(file, object, places) = wish else { continue };
            match self.live.get(key) {
                Some(live) if live.file == file && !self.touched.contains(file) => {}
                Some(live) if live.object == *object => {
                    if live.file != file || live.places != *places {
                        moves.push((key.clone(), file.to_owned(), places.clone()));
                    }
                }
                _ => news.push((key.clone(), object.clone(), file.to_owned(), places.clone())),
            }
        }
        self.touched.clear();
        let world_changed = !news.is_empty();
        let mut world = World::clone(&self.world);
        for (key, file, places) in moves {
            if let Some(live) = self.live.get_mut(&key) {
                (live.file, live.places) = (file, places);
            }
        }
        for (key, object, file, places) in news {
            world.insert(key.name.clone(), object.clone());
            self.live.insert(key, Live { object, file, places, absent_since: None });
        }
        let (removed, recheck_at) = self.remove_absent(&wanted, now, &mut diagnostics);
        for key in &removed {
            world.remove(key);
        }
        let world_changed = world_changed || !removed.is_empty();
        if world_changed {
            self.world = Arc::new(world);
        }
        diagnostics.extend(self.files.values().flat_map(|parsed| &parsed.diagnostics).cloned());
        diagnostics.extend(self.skipped());
        diagnostics.sort();
        diagnostics.dedup();
        let changed = world_changed || diagnostics != self.diagnostics;
        self.diagnostics = diagnostics;
        Settled { changed, recheck_at }
    }

    /// What each object is to be. The first file in path order that mentions an object decides.
    fn wishes(&self, diagnostics: &mut Vec<Diagnostic>) -> BTreeMap<&ObjectKey, Wish<'_>> {
        let mut by_file: BTreeMap<&Path, Vec<&ObjectKey>> = BTreeMap::new();
        if self.files.values().any(|parsed| parsed.incomplete) {
            for (key, live) in &self.live {
                by_file.entry(&live.file).or_default().push(key);
            }
        }
        let mut wishes: BTreeMap<&ObjectKey, Wish<'_>> = BTreeMap::new();
        let mut first: BTreeMap<&ObjectKey, (&Path, &Places)> = BTreeMap::new();
        for (path, parsed) in &self.files {
            for document in &parsed.documents {
                if let Some((earlier, places)) = first.get(&document.key) {
                    diagnostics.push(duplicate(&document.key, (path, &document.places), (earlier, places)));
                    continue;
                }
                first.insert(&document.key, (path, &document.places));
                let wish = match &document.object {
                    Some(object) => Some(Wish::Version(path, object, &document.places)),
                    None => self.live.contains_key(&document.key).then_some(Wish::Keep),
                };
                if let Some(wish) = wish {
                    wishes.entry(&document.key).or_insert(wish);
                }
            }
            if parsed.incomplete {
                for key in by_file.get(path.as_path()).into_iter().flatten() {
                    wishes.entry(key).or_insert(Wish::Keep);
                }
            }
        }
        wishes
    }

    /// Remove what has been absent for long enough. Returns what was, and when to look again.
    fn remove_absent(
        &mut self,
        wanted: &BTreeSet<ObjectKey>,
        now: Duration,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> (Vec<ObjectKey>, Option<Duration>) {
        for (key, live) in &mut self.live {
            live.absent_since = if wanted.contains(key) { None } else { live.absent_since.or(Some(now)) };
        }
        let absent: Vec<&Live> = self.live.values().filter(|live| live.absent_since.is_some()).collect();
        let all = self.live.len();
        let mass = absent.len() * 2 > all;
        let delay = if mass { MASS_REMOVAL_DELAY } else { REMOVAL_DELAY };
        let due = |live: &Live| live.absent_since.is_some_and(|since| now >= since + delay);
        let recheck_at = absent.iter().filter(|live| !due(live)).filter_map(|live| live.absent_since).min();
        if mass && recheck_at.is_some() {
            let file = absent.first().map_or(Path::new(""), |live| live.file.as_path());
            diagnostics.push(mass_removal(file, absent.len(), all));
        }
        let removed = self.live.extract_if(.., |_, live| due(live)).map(|(key, _)| key).collect();
        (removed, recheck_at.map(|since| since + delay))
    }

    /// Each kind that is not part of the World, at the first place it stands at.
    fn skipped(&self) -> Vec<Diagnostic> {
        let mut first: BTreeMap<&str, &Diagnostic> = BTreeMap::new();
        for (what, diagnostic) in self.files.values().flat_map(|parsed| &parsed.skipped) {
            first.entry(what).or_insert(diagnostic);
        }
        first.into_values().cloned().collect()
    }

    /// A finding about objects of the World, with the place where the object stands.
    pub fn locate(&self, finding: &evenkeel_plan::Diagnostic) -> Diagnostic {
        let (namespace, name) = finding.name.split_once('/').unwrap_or(("", &finding.name));
        let key = ObjectKey { kind: finding.kind, name: ObjectName::new(namespace, name) };
        let live = self.live.get(&key);
        let place = live.and_then(|live| live.places.fields.get(&finding.field).or_else(|| live.places.object()));
        Diagnostic {
            location: Location {
                file: live.map(|live| live.file.clone()).unwrap_or_default(),
                line: place.map_or(0, |place| place.line),
                column: place.map_or(0, |place| place.column),
            },
            severity: finding.severity,
            reason: finding.reason,
            kind: finding.kind.to_string(),
            name: finding.name.clone(),
            field: finding.field.clone(),
            message: finding.message.clone(),
            remedy: finding.remedy.clone(),
            snippet: place.and_then(|place| place.snippet.clone()),
        }
    }
}

impl Places {
    /// The place of the object itself.
    fn object(&self) -> Option<&Place> {
        self.fields.get("")
    }
}

fn duplicate(key: &ObjectKey, later: (&Path, &Places), earlier: (&Path, &Places)) -> Diagnostic {
    let line = |(path, places): (&Path, &Places)| {
        format!("{}:{}", path.display(), places.object().map_or(0, |place| place.line))
    };
    let place = later.1.object();
    Diagnostic {
        location: Location {
            file: later.0.to_owned(),
            line: place.map_or(0, |place| place.line),
            column: place.map_or(0, |place| place.column),
        },
        severity: Severity::Error,
        reason: "duplicate_object",
        kind: key.kind.to_string(),
        name: key.name.to_string(),
        field: "metadata.name".to_owned(),
        message: format!("{key} is already defined at {}, which is used; not {}", line(earlier), line(later)),
        remedy: "keep one of the two".to_owned(),
        snippet: place.and_then(|place| place.snippet.clone()),
    }
}

fn mass_removal(file: &Path, absent: usize, all: usize) -> Diagnostic {
    let message = format!("{absent} of {all} objects vanished at once; they are kept for {MASS_REMOVAL_DELAY:?} more");
    let remedy = "restore the files if this was not intended";
    Diagnostic::about_file(file, Severity::Warning, "mass_removal", message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn pool(name: &str, range: &str) -> String {
        format!(
            "---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}}}\nspec:\n  addresses: [{range}]\n"
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
    }
}
