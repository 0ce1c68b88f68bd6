use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// Far more than any change takes; reached only on failure.
const LIMIT: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("in time") });
}

fn directory() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file.yaml");
    fs::write(&file, "one").unwrap();
    (directory, file)
}

/// Notifications alone: a poll would hide that they do not work.
fn without_poll(files: impl IntoIterator<Item = PathBuf>) -> Watcher {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let lost = Arc::new(AtomicBool::new(false));
    let notifier = notifier(sender, Arc::clone(&lost)).unwrap();
    Watcher::build(files, Some(notifier), events, lost, LIMIT * 2)
}

fn without_notifications(files: impl IntoIterator<Item = PathBuf>) -> Watcher {
    let (_, events) = mpsc::channel(EVENTS_MAX);
    Watcher::build(files, None, events, Arc::new(AtomicBool::new(false)), Duration::from_millis(10))
}

/// Waits for reports until the file has this content. Reports before it, and without it, are allowed.
async fn reports(watcher: &mut Watcher, file: &Path, content: Option<&str>) {
    loop {
        let changed = watcher.changed().await;
        if changed.iter().any(|path| path == file) && fs::read_to_string(file).ok().as_deref() == content {
            return;
        }
    }
}

#[test]
fn sees_a_rewrite_in_place() {
    run(async {
        let (_directory, file) = directory();
        let mut watcher = without_poll([file.clone()]);
        for content in ["two", "ten", "eleven"] {
            fs::write(&file, content).unwrap();
            reports(&mut watcher, &file, Some(content)).await;
        }
    });
}

#[test]
fn sees_a_file_renamed_over_it() {
    run(async {
        let (directory, file) = directory();
        let mut watcher = without_poll([file.clone()]);
        for content in ["two", "three"] {
            let next = directory.path().join("next");
            fs::write(&next, content).unwrap();
            fs::rename(&next, &file).unwrap();
            reports(&mut watcher, &file, Some(content)).await;
        }
    });
}

#[test]
fn sees_deletion_and_creation() {
    run(async {
        let (_directory, file) = directory();
        let mut watcher = without_poll([file.clone()]);
        fs::remove_file(&file).unwrap();
        reports(&mut watcher, &file, None).await;
        fs::write(&file, "again").unwrap();
        reports(&mut watcher, &file, Some("again")).await;
    });
}

/// As Kubernetes mounts a ConfigMap: file → ..data/file, ..data → a directory that is replaced.
#[test]
fn sees_a_link_swapped_on_the_way() {
    run(async {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        let publish = |version: &str| {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("file.yaml"), version).unwrap();
            symlink(version, root.join("..next")).unwrap();
            fs::rename(root.join("..next"), root.join("..data")).unwrap();
        };
        publish("..v1");
        let file = root.join("file.yaml");
        symlink("..data/file.yaml", &file).unwrap();
        let mut watcher = without_poll([file.clone()]);
        publish("..v2");
        reports(&mut watcher, &file, Some("..v2")).await;
        fs::remove_dir_all(root.join("..v1")).unwrap();
        publish("..v3");
        reports(&mut watcher, &file, Some("..v3")).await;
    });
}

#[test]
fn sees_a_rewrite_behind_a_link() {
    run(async {
        let (_there, target) = directory();
        let here = TempDir::new().unwrap();
        let file = here.path().join("link.yaml");
        symlink(&target, &file).unwrap();
        let mut watcher = without_poll([file.clone()]);
        fs::write(&target, "two").unwrap();
        reports(&mut watcher, &file, Some("two")).await;
    });
}

#[test]
fn polls_where_there_are_no_notifications() {
    run(async {
        let (_directory, file) = directory();
        let mut watcher = without_notifications([file.clone()]);
        fs::write(&file, "longer than before").unwrap();
        reports(&mut watcher, &file, Some("longer than before")).await;
        fs::remove_file(&file).unwrap();
        reports(&mut watcher, &file, None).await;
    });
}

/// The poll finds the new directory; from then on notifications work in it again.
#[test]
fn follows_a_directory_that_is_replaced() {
    run(async {
        let (parent, _) = directory();
        let inner = parent.path().join("inner");
        let file = inner.join("file.yaml");
        let mut watcher = Watcher::new([file.clone()]);
        watcher.poll = Duration::from_millis(10);
        watcher.next_poll = Instant::now();
        for content in ["one", "three"] {
            fs::create_dir(&inner).unwrap();
            fs::write(&file, content).unwrap();
            reports(&mut watcher, &file, Some(content)).await;
            assert!(watcher.directories.contains_key(&inner), "watched again");
            fs::remove_dir_all(&inner).unwrap();
            reports(&mut watcher, &file, None).await;
        }
    });
}

#[test]
fn reports_a_file_that_never_rests() {
    run(async {
        let (_directory, file) = directory();
        let mut watcher = without_poll([file.clone()]);
        let writer = async {
            for turn in 0.. {
                fs::write(&file, format!("turn {turn}")).unwrap();
                tokio::time::sleep(QUIET / 4).await;
            }
        };
        let reader = async {
            for _ in 0..3 {
                assert_eq!(watcher.changed().await, std::slice::from_ref(&file));
            }
        };
        tokio::select! {
            () = writer => unreachable!("it never rests"),
            () = reader => {}
        }
    });
}

#[test]
fn gathers_many_writes_into_one_report() {
    run(async {
        let (directory, file) = directory();
        let other = directory.path().join("other.yaml");
        let mut watcher = without_poll([file.clone(), other.clone()]);
        for turn in 0..20 {
            fs::write(&file, format!("{turn}")).unwrap();
            fs::write(&other, format!("{turn}")).unwrap();
        }
        assert_eq!(watcher.changed().await, [file, other]);
    });
}

#[test]
fn the_set_of_files_can_change() {
    run(async {
        let (directory, file) = directory();
        let (_elsewhere, added) = self::directory();
        let ignored = directory.path().join("ignored.yaml");
        let mut watcher = without_poll([file.clone(), ignored.clone()]);
        watcher.set_files([file.clone(), added.clone()]);
        fs::write(&ignored, "not reported").unwrap();
        fs::write(&added, "two").unwrap();
        reports(&mut watcher, &added, Some("two")).await;
        watcher.set_files([file.clone()]);
        assert!(!watcher.directories.contains_key(added.parent().unwrap()), "no longer watched");
        fs::write(&added, "not reported").unwrap();
        fs::write(&file, "three").unwrap();
        assert_eq!(watcher.changed().await, [file]);
    });
}

#[test]
fn lost_events_count_for_every_file() {
    run(async {
        let (directory, file) = directory();
        let mut watcher = without_poll([file.clone()]);
        for turn in 0..EVENTS_MAX {
            fs::write(directory.path().join(format!("noise-{turn}")), "x").unwrap();
        }
        assert_eq!(watcher.changed().await, [file]);
    });
}

#[test]
fn a_dropped_wait_loses_nothing() {
    run(async {
        let (_directory, file) = directory();
        let mut watcher = without_poll([file.clone()]);
        fs::write(&file, "two").unwrap();
        for _ in 0..5 {
            // On a machine that is busy enough, the wait is over before its timeout is looked at.
            if let Ok(files) = tokio::time::timeout(QUIET / 4, watcher.changed()).await {
                return assert_eq!(files, [file]);
            }
        }
        assert_eq!(watcher.changed().await, [file]);
    });
}
