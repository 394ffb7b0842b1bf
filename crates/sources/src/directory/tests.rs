use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn pool(name: &str, range: &str) -> String {
    format!(
        "---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}}}\nspec:\n  addresses: [{range}]\n"
    )
}

/// Two pools that never change, so that a change of one more is not a mass removal.
fn ballast() -> String {
    pool("x", "10.8.0.0/24") + &pool("y", "10.9.0.0/24")
}

struct Lab {
    directory: TempDir,
    receiver: watch::Receiver<Update>,
}

/// Longer than anything here should take on the busiest machine; waiting ends as soon as what is awaited is there.
const GENEROUS: Duration = Duration::from_secs(30);

impl Lab {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let receiver = Directory::watch(vec![directory.path().to_owned()]).unwrap();
        Self { directory, receiver }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Put a file in place the way careful programs do.
    fn replace(&self, name: &str, content: &str) {
        let temporary = self.path(".new");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    /// Wait for a state that fulfils `condition`.
    fn until(&mut self, what: &str, condition: impl Fn(&Update) -> bool) -> Update {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let found = runtime.block_on(async {
            let found = tokio::time::timeout(GENEROUS, self.receiver.wait_for(condition)).await;
            found.map(|update| update.unwrap().clone()).ok()
        });
        found.unwrap_or_else(|| panic!("{what}: still {:?}", shown(&self.receiver.borrow())))
    }

    fn until_pools(&mut self, expected: &[&str]) -> Update {
        self.until(&format!("waiting for {expected:?}"), |update| pools(update) == expected)
    }

    fn until_reason(&mut self, reason: &str) -> Update {
        self.until(reason, |update| reasons(update).contains(&reason))
    }
}

fn pools(update: &Update) -> Vec<String> {
    let pools = update.world.pools.values();
    pools.map(|pool| format!("{} {}", pool.name.name, pool.ranges[0].first())).collect()
}

fn reasons(update: &Update) -> Vec<&str> {
    update.diagnostics.iter().map(|diagnostic| diagnostic.reason).collect()
}

fn shown(update: &Update) -> (Vec<String>, Vec<&str>) {
    (pools(update), reasons(update))
}

const BALLAST: [&str; 2] = ["x 10.8.0.0", "y 10.9.0.0"];

fn with_ballast(name: &str) -> Vec<&str> {
    [&[name][..], &BALLAST].concat()
}

#[test]
fn the_first_state_is_there_at_once() {
    let lab = Lab::new(&[("a.yaml", &ballast()), ("deep/er/b.yml", &pool("a", "10.0.0.0/24")), ("c.txt", "kind: [")]);
    assert_eq!(
        shown(&lab.receiver.borrow()),
        (with_ballast("a 10.0.0.0").iter().map(|s| (*s).to_owned()).collect(), vec![])
    );
}

#[test]
fn an_atomic_replacement_is_noticed_by_inotify() {
    let mut lab = Lab::new(&[("a.yaml", &ballast()), ("b.yaml", &pool("a", "10.0.0.0/24"))]);
    let start = Instant::now();
    lab.replace("b.yaml", &pool("a", "10.0.1.0/24"));
    let update = lab.until_pools(&with_ballast("a 10.0.1.0"));
    let noticed = update.noticed.take();
    assert!(noticed.len() == 1 && noticed[0] >= start, "{noticed:?}");
}

#[test]
fn a_file_in_a_new_directory_is_noticed() {
    let mut lab = Lab::new(&[("a.yaml", &ballast())]);
    fs::create_dir_all(lab.path("new/er")).unwrap();
    fs::write(lab.path("new/er/b.json"), r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}"#).unwrap();
    lab.until("the node", |update| update.world.nodes.contains_key("n"));
}

#[test]
fn truncate_and_write_takes_effect_when_closed() {
    let mut lab = Lab::new(&[("a.yaml", &ballast()), ("b.yaml", &pool("a", "10.0.0.0/24"))]);
    let changed = pool("a", "10.0.1.0/24") + &pool("b", "10.0.2.0/24");
    let (first, rest) = changed.split_at(pool("a", "").len() + 4);
    let mut file = File::create(lab.path("b.yaml")).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    // Whatever happens elsewhere meanwhile makes everything be looked at.
    lab.replace("c.yaml", &pool("c", "10.0.3.0/24"));
    let update = lab.until("pool c", |update| pools(update).contains(&"c 10.0.3.0".to_owned()));
    assert_eq!(pools(&update), ["a 10.0.0.0", "c 10.0.3.0", "x 10.8.0.0", "y 10.9.0.0"], "half a file has no effect");
    assert!(reasons(&update).is_empty(), "and is no error: {update:?}");
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    lab.until_pools(&["a 10.0.1.0", "b 10.0.2.0", "c 10.0.3.0", "x 10.8.0.0", "y 10.9.0.0"]);
}

#[test]
fn a_configmap_swap_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let version = |name: &str, range: &str| {
        let version = directory.path().join(name);
        fs::create_dir(&version).unwrap();
        fs::write(version.join("a.yaml"), ballast() + &pool("a", range)).unwrap();
    };
    version("..2026_1", "10.0.0.0/24");
    symlink("..2026_1", directory.path().join("..data")).unwrap();
    symlink("..data/a.yaml", directory.path().join("a.yaml")).unwrap();
    let receiver = Directory::watch(vec![directory.path().to_owned()]).unwrap();
    assert_eq!(pools(&receiver.borrow()), with_ballast("a 10.0.0.0"));
    version("..2026_2", "10.0.1.0/24");
    symlink("..2026_2", directory.path().join("..data_tmp")).unwrap();
    fs::rename(directory.path().join("..data_tmp"), directory.path().join("..data")).unwrap();
    fs::remove_dir_all(directory.path().join("..2026_1")).unwrap();
    let mut lab = Lab { directory, receiver };
    lab.until_pools(&with_ballast("a 10.0.1.0"));
}

#[test]
fn a_link_to_a_file_elsewhere_follows_that_file() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, pool("a", "10.0.0.0/24")).unwrap();
    let mut lab = Lab::new(&[("a.yaml", &ballast())]);
    symlink(&target, lab.path("b.yaml")).unwrap();
    lab.until_pools(&with_ballast("a 10.0.0.0"));
    fs::write(&target, pool("a", "10.0.1.0/24")).unwrap();
    lab.until_pools(&with_ballast("a 10.0.1.0"));
}

#[test]
fn a_circle_of_links_ends() {
    let mut lab = Lab::new(&[("a.yaml", &ballast()), ("sub/b.yaml", &pool("a", "10.0.0.0/24"))]);
    symlink(".", lab.path("sub/again")).unwrap();
    symlink("nowhere", lab.path("dangling.yaml")).unwrap();
    symlink("loop.yaml", lab.path("loop.yaml")).unwrap();
    lab.replace("c.yaml", &pool("c", "10.0.3.0/24"));
    let update = lab.until_pools(&["a 10.0.0.0", "c 10.0.3.0", "x 10.8.0.0", "y 10.9.0.0"]);
    assert!(reasons(&update).is_empty(), "{update:?}");
}

#[test]
fn a_deleted_file_is_removed_and_may_return() {
    let mut lab = Lab::new(&[("a.yaml", &ballast()), ("b.yaml", &pool("a", "10.0.0.0/24"))]);
    let start = Instant::now();
    fs::remove_file(lab.path("b.yaml")).unwrap();
    lab.until_pools(&BALLAST);
    assert!(start.elapsed() >= crate::catalog::REMOVAL_DELAY, "an absence is confirmed first");
    lab.replace("b.yaml", &pool("a", "10.0.1.0/24"));
    lab.until_pools(&with_ballast("a 10.0.1.0"));
}

#[test]
fn a_broken_file_keeps_the_last_good_version_and_recovers() {
    let mut lab = Lab::new(&[("a.yaml", &ballast()), ("b.yaml", &pool("a", "10.0.0.0/24"))]);
    lab.replace("b.yaml", "kind: [");
    let update = lab.until_reason("yaml_syntax");
    assert_eq!(pools(&update), with_ballast("a 10.0.0.0"));
    lab.replace("b.yaml", &pool("a", "10.0.1.0/24"));
    let update = lab.until_pools(&with_ballast("a 10.0.1.0"));
    assert!(reasons(&update).is_empty());
}

#[test]
fn a_root_that_is_gone_freezes_the_world() {
    let mut lab = Lab::new(&[("a.yaml", &ballast())]);
    let root = lab.directory.path().to_owned();
    let aside = root.with_extension("aside");
    fs::rename(&root, &aside).unwrap();
    let update = lab.until_reason("source_unreadable");
    assert_eq!(pools(&update), BALLAST);
    assert!(update.diagnostics.iter().all(|diagnostic| !diagnostic.is_error()), "a warning: {update:?}");
    fs::rename(&aside, &root).unwrap();
    lab.until("the root again", |update| reasons(update).is_empty());
    lab.replace("b.yaml", &pool("a", "10.0.0.0/24"));
    lab.until_pools(&with_ballast("a 10.0.0.0"));
}

#[test]
fn losing_everything_at_once_is_announced_first() {
    let mut lab = Lab::new(&[("a.yaml", &ballast())]);
    fs::remove_file(lab.path("a.yaml")).unwrap();
    let update = lab.until_reason("mass_removal");
    assert_eq!(pools(&update), BALLAST);
    lab.until_pools(&[]);
}

#[test]
fn what_changes_nothing_is_not_told() {
    let mut lab = Lab::new(&[("a.yaml", &ballast())]);
    lab.replace("a.yaml", &format!("# a comment\n{}", ballast()));
    lab.replace("b.yaml", &pool("a", "10.0.0.0/24"));
    lab.receiver.mark_unchanged();
    let seen = lab.until_pools(&with_ballast("a 10.0.0.0"));
    lab.receiver.mark_unchanged();
    // A change after it is told next, nothing in between.
    lab.replace("a.yaml", &ballast());
    lab.replace("b.yaml", &pool("a", "10.0.1.0/24"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(GENEROUS, lab.receiver.changed()).await.unwrap().unwrap() });
    let next = lab.receiver.borrow();
    assert_eq!(pools(&next), with_ballast("a 10.0.1.0"), "after {seen:?}");
}

#[test]
fn writes_in_quick_succession_are_all_seen() {
    let mut lab = Lab::new(&[("a.yaml", &ballast()), ("b.yaml", &pool("a", "10.0.0.0/24"))]);
    for round in 0..50 {
        for n in 0..5 {
            fs::write(lab.path("b.yaml"), pool("a", &format!("10.0.{}.0/24", 10 + (round + n) % 50))).unwrap();
        }
        lab.until_pools(&with_ballast(&format!("a 10.0.{}.0", 10 + (round + 4) % 50)));
    }
}

#[test]
fn load_once_reads_files_and_directories() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pools");
    fs::write(&file, ballast()).unwrap();
    let loaded = Directory::load_once(&[file, directory.path().join("missing")]);
    assert_eq!(loaded.world.pools.len(), 2, "a file given by name needs no extension");
    let reasons: Vec<_> = loaded.diagnostics.iter().map(|d| (d.reason, d.is_error())).collect();
    assert_eq!(reasons, [("source_unreadable", true)]);
}

/// Something that happens in a directory.
#[derive(Clone, Debug)]
enum Happens {
    Write(&'static str, u8),
    /// By a rename from a name of its own.
    Replace(&'static str, &'static str, u8),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    Directory(&'static str),
    Link(&'static str, &'static str),
}

fn happens() -> impl Strategy<Value = Happens> {
    const NAMES: [&str; 8] = ["a.yaml", "b.yaml", "d/a.yaml", "d/c.yaml", "..v/a.yaml", "d", "..v", "l.yaml"];
    let name = || proptest::sample::select(&NAMES[..]);
    prop_oneof![
        6 => (name(), 0..4_u8).prop_map(|(name, net)| Happens::Write(name, net)),
        4 => (name(), proptest::sample::select(&["new", ".new", "d/new"][..]), 0..4_u8)
            .prop_map(|(name, by, net)| Happens::Replace(name, by, net)),
        2 => name().prop_map(Happens::Remove),
        2 => (name(), name()).prop_map(|(from, to)| Happens::Rename(from, to)),
        1 => proptest::sample::select(&["d", "..v"][..]).prop_map(Happens::Directory),
        2 => (name(), name()).prop_map(|(to, link)| Happens::Link(to, link)),
    ]
}

/// Does it. What cannot be done is left.
fn act(root: &Path, what: &Happens) {
    let content = |name: &str, net| pool(&name.replace(['.', '/'], ""), &format!("10.{net}.0.0/24"));
    let _ = match what {
        Happens::Write(name, net) => fs::write(root.join(name), content(name, net)),
        Happens::Replace(name, by, net) => {
            fs::write(root.join(by), content(name, net)).and_then(|()| fs::rename(root.join(by), root.join(name)))
        }
        Happens::Remove(name) => fs::remove_file(root.join(name)).or_else(|_| fs::remove_dir_all(root.join(name))),
        Happens::Rename(from, to) => fs::rename(root.join(from), root.join(to)),
        Happens::Directory(name) => fs::create_dir(root.join(name)),
        Happens::Link(to, link) => symlink(root.join(to), root.join(link)),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Time stands still: nothing is looked at again but for what happened.
    #[test]
    fn looks_at_what_happened_see_what_a_look_at_everything_sees(
        rounds in proptest::collection::vec(proptest::collection::vec(happens(), 1..4), 1..12),
    ) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), ballast()).unwrap();
        let roots = vec![directory.path().to_owned()];
        let mut watcher = Watcher::new(roots.clone()).unwrap();
        watcher.look(Duration::ZERO);
        for round in rounds {
            round.iter().for_each(|what| act(directory.path(), what));
            while watcher.writers.has_news() {
                watcher.look(Duration::ZERO);
            }
            let all = Directory::load_once(&roots);
            let is_unreadable = all.diagnostics.iter().any(|found| found.reason == "source_unreadable");
            prop_assert_eq!(watcher.frozen.is_some(), is_unreadable, "after {:?}", round);
            if is_unreadable {
                continue;
            }
            for (name, pool) in &all.world.pools {
                prop_assert_eq!(watcher.catalog.world().pools.get(name), Some(pool), "{} after {:?}", name, round);
            }
            // What is gone waits to be looked for again.
            let gone = watcher.catalog.world().pools.keys().any(|name| !all.world.pools.contains_key(name));
            prop_assert!(!gone || watcher.recheck_at.is_some(), "after {:?}", round);
        }
    }
}

/// Where names are hidden and nothing else is looked for.
#[test]
fn what_a_link_leads_to_is_seen_wherever_it_appears() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    symlink("..v/w/a.yaml", path("l.yaml")).unwrap();
    let mut watcher = Watcher::new(vec![directory.path().to_owned()]).unwrap();
    watcher.look(Duration::ZERO);
    for step in 0..3 {
        match step {
            0 => fs::create_dir(path("..v")),
            1 => fs::create_dir(path("..v/w")),
            _ => fs::write(path("..v/w/a.yaml"), pool("a", "10.0.0.0/24")),
        }
        .unwrap();
        while watcher.writers.has_news() {
            watcher.look(Duration::ZERO);
        }
    }
    assert_eq!(watcher.catalog.world().pools.len(), 1);
}

#[test]
fn a_change_of_one_file_is_no_look_at_the_others() {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..20 {
        fs::write(directory.path().join(format!("{n}.yaml")), pool(&format!("p{n}"), &format!("10.{n}.0.0/24")))
            .unwrap();
    }
    let mut watcher = Watcher::new(vec![directory.path().to_owned()]).unwrap();
    watcher.look(Duration::ZERO);
    for n in 0..20 {
        fs::write(directory.path().join("tmp"), pool("p7", &format!("10.7.{}.0/24", n + 1))).unwrap();
        fs::rename(directory.path().join("tmp"), directory.path().join("7.yaml")).unwrap();
        let Happened::At(paths) = watcher.writers.happened() else { panic!("it is known where") };
        let files = watcher.scanned.files_at(&paths).unwrap();
        assert_eq!(files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), [directory.path().join("7.yaml")]);
        assert_eq!(watcher.look_at(&files, Duration::ZERO).changed, 1);
    }
    assert_eq!(watcher.catalog.considered(), 1);
}
