//! The last good release of each policy on disk: what a start without the registry serves.
//!
//! One file each, the manifest on its first line and the component after it, replaced whole once the release is in
//! force. It is believed no more than the registry: signature and digest are checked again when it is read.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Fetched;
use crate::config::{Config, RegistrySource, Release};
use crate::release::{COMPONENT_BYTES_MAX, Manifest};

/// A component, and a manifest with its configuration escaped in it.
const FILE_BYTES_MAX: u64 = COMPONENT_BYTES_MAX as u64 + (1 << 20);

/// Where this release of this registry is kept; `None` if it is not. Sidecars with the same registry share it.
pub fn path(config: &Config, release: &Release) -> Option<PathBuf> {
    let source = match &config.registry.source {
        RegistrySource::File(_) => return None,
        RegistrySource::Etcd(etcd) => format!("etcd {:?} {}", etcd.servers, etcd.prefix),
        RegistrySource::Consul(consul) => format!("consul {:?} {:?}", consul.servers, consul.datacenter),
    };
    let digest = Sha256::digest(source);
    let registry: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // A name is a DNS label.
    Some(config.state_dir.as_ref()?.join(format!("release-{registry}-{}", release.name)))
}

/// What is kept, if it would be taken from the registry as well; otherwise the log says why.
pub async fn load(path: Option<PathBuf>, release: &Release, bytes_max: usize) -> Option<Fetched> {
    let path = path?;
    let release = release.clone();
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || read(&path, &release, bytes_max)).await;
    match read.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(kept) => kept,
        Err(reason) => {
            tracing::warn!(path = shown, reason, "the release that is kept cannot be used");
            None
        }
    }
}

fn read(path: &Path, release: &Release, bytes_max: usize) -> Result<Option<Fetched>, String> {
    let mut bytes = Vec::new();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let end = memchr::memchr(b'\n', &bytes).ok_or("it is cut short")?;
    let manifest = Manifest::read(&bytes[..end]).map_err(|unfit| unfit.to_string())?;
    let component = Bytes::from(bytes).slice(end + 1..);
    let kept = Fetched::verified(manifest, component, release, bytes_max);
    kept.map(Some).map_err(|unfit| unfit.to_string())
}

/// Replaces the file whole.
pub fn save(path: &Path, fetched: &Fetched) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut new = std::fs::File::create(&beside)?;
    let written = new
        .write_all(&serde_json::to_vec(&fetched.manifest)?)
        .and_then(|()| new.write_all(b"\n"))
        .and_then(|()| new.write_all(&fetched.component))
        .and_then(|()| new.sync_all());
    let replaced = written.and_then(|()| std::fs::rename(&beside, path));
    if replaced.is_err() {
        // What is half written is of no use.
        let _ = std::fs::remove_file(&beside);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::{SigningKey, Trust};
    use crate::snapshot::Digest;

    const COMPONENT: &[u8] = b"\0asm\nwith a line's end";

    fn manifest() -> Manifest {
        Manifest {
            policy: "mine".to_owned(),
            version: 7,
            digest: Digest::of(COMPONENT).to_string(),
            size: COMPONENT.len(),
            parts: 1,
            contract: "outrigger:policy@0.1.0".to_owned(),
            configuration: Some("{\n}".to_owned()),
            published_at: 0,
            published_by: String::new(),
            message: "two\nlines".to_owned(),
            signature: None,
        }
    }

    fn release(at_least: u64) -> Release {
        Release { name: "mine".to_owned(), trust: Trust { at_least, keys: Vec::new().into() } }
    }

    #[tokio::test]
    async fn comes_back_as_it_was_or_not_at_all() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("deep/release-0-mine");
        let load = async |release: &Release| load(Some(path.clone()), release, 1 << 20).await;
        assert!(load(&release(0)).await.is_none());
        let kept = Fetched::new(manifest(), Bytes::from_static(COMPONENT));
        save(&path, &kept).unwrap();
        let again = load(&release(7)).await.unwrap();
        assert_eq!((again.released, &again.component[..]), (kept.released, COMPONENT));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // What is trusted now counts, not what was when it was kept.
        assert!(load(&release(8)).await.is_none());
        let key = SigningKey::generate().unwrap().0.public();
        let signed = Release { trust: Trust { at_least: 0, keys: [key].into() }, ..release(0) };
        assert!(load(&signed).await.is_none());
        assert!(load(&Release { name: "other".to_owned(), ..release(0) }).await.is_none());
        let bytes = std::fs::read(&path).unwrap();
        let mut tampered = bytes.clone();
        *tampered.last_mut().unwrap() ^= 1;
        for broken in [&bytes[..bytes.len() - 1], &bytes[..20], b"", &tampered] {
            std::fs::write(&path, broken).unwrap();
            assert!(load(&release(0)).await.is_none());
        }
    }
}
