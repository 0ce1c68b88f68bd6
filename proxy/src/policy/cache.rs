//! Compiled code on disk, so that a restart does not compile again.
//!
//! What is read here is run. So the directory and its files must belong to us alone, nothing is opened through a
//! link, and the bytes that are hashed are the bytes that are loaded. Whatever is odd is compiled anew and
//! overwritten; no fault of the cache ever refuses a policy.

use std::fs::{DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat, Timestamps, fstat, openat, renameat, unlinkat};
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use crate::snapshot::Digest;

/// An open directory of compiled policies.
#[derive(Debug)]
pub(super) struct Cache {
    dir: OwnedFd,
    /// Stands for the compiler, its settings and this machine's instruction set.
    compiler: u64,
}

impl Cache {
    /// Makes the directory if it is missing. `None`, with a warning, if it cannot be trusted.
    pub(super) fn open(path: &Path, engine: &wasmtime::Engine) -> Option<Self> {
        match open_dir(path) {
            Ok(dir) => Some(Self { dir, compiler: compiler_hash(engine) }),
            Err(reason) => {
                let path = path.display();
                tracing::warn!(%path, reason, "compiled policies are not cached");
                None
            }
        }
    }

    /// The component and the size of its code.
    pub(super) fn read(&self, engine: &wasmtime::Engine, digest: Digest) -> Option<(Component, usize)> {
        let name = self.name(digest);
        match self.code(&name, digest) {
            Ok(code) => match deserialize(engine, &code) {
                Ok(component) => Some((component, code.len())),
                Err(error) => {
                    tracing::warn!(name, %error, "cached code is of another kind; compiling anew");
                    None
                }
            },
            Err(Unusable::Missing) => None,
            Err(Unusable::Odd(reason)) => {
                tracing::warn!(name, reason, "cached code is not trusted; compiling anew");
                None
            }
        }
    }

    /// Best effort: a full disk costs a compilation at the next start.
    pub(super) fn write(&self, digest: Digest, code: &[u8]) {
        let name = self.name(digest);
        if let Err(error) = self.replace(&name, digest, code) {
            tracing::warn!(name, %error, "compiled code is not cached");
        }
        self.evict();
    }

    fn name(&self, digest: Digest) -> String {
        format!("{digest}-{:016x}{SUFFIX}", self.compiler)
    }

    fn code(&self, name: &str, digest: Digest) -> Result<Vec<u8>, Unusable> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Err(Unusable::Missing),
            Err(error) => return Err(Unusable::Odd(error.to_string())),
        };
        let stat = fstat(&file).map_err(|e| Unusable::Odd(e.to_string()))?;
        owned_by_us(&stat, libc::S_IFREG).map_err(Unusable::Odd)?;
        // For `evict`: what is used is young.
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
        let mut bytes = Vec::new();
        File::from(file)
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|e| Unusable::Odd(e.to_string()))?;
        let sealed = bytes.get(..HEADER_BYTES).ok_or_else(|| Unusable::Odd("truncated".to_owned()))?;
        if sealed[..MAGIC.len()] != MAGIC {
            return Err(Unusable::Odd("of another version".to_owned()));
        }
        if sealed[MAGIC.len()..] != self.seal(digest, &bytes[HEADER_BYTES..]) {
            return Err(Unusable::Odd("changed since it was written".to_owned()));
        }
        Ok(bytes.split_off(HEADER_BYTES))
    }

    fn replace(&self, name: &str, digest: Digest, code: &[u8]) -> std::io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let temporary = format!("{}-{}{TEMPORARY}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file
            .write_all(&MAGIC)
            .and_then(|()| file.write_all(&self.seal(digest, code)))
            .and_then(|()| file.write_all(code))
            .and_then(|()| Ok(renameat(&self.dir, &temporary, &self.dir, name)?));
        if written.is_err() {
            let _ = unlinkat(&self.dir, &temporary, AtFlags::empty());
        }
        written
    }

    /// Of the code and of what it is for, so that a file under another's name is found out.
    fn seal(&self, digest: Digest, code: &[u8]) -> [u8; 32] {
        let sealed = Sha256::new().chain_update(digest.0).chain_update(self.compiler.to_le_bytes());
        sealed.chain_update(code).finalize().into()
    }

    /// Removes the oldest files over the caps, and temporary ones that a crash left behind.
    fn evict(&self) {
        let mut files = self.files();
        files.sort_by_key(|file| std::cmp::Reverse(file.modified));
        let mut bytes = 0;
        for (rank, file) in files.iter().enumerate() {
            bytes += file.bytes;
            if rank >= FILES_MAX || bytes > BYTES_MAX {
                let _ = unlinkat(&self.dir, &file.name, AtFlags::empty());
            }
        }
    }

    fn files(&self) -> Vec<CachedFile> {
        let Ok(dir) =
            openat(&self.dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        else {
            return Vec::new();
        };
        let mut buffer = Vec::with_capacity(8192);
        let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
        let mut files = Vec::new();
        while let Some(Ok(entry)) = entries.next() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !name.ends_with(SUFFIX) && !name.ends_with(TEMPORARY) {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            files.push(CachedFile { name: name.to_owned(), bytes, modified: stat.st_mtime });
        }
        files
    }
}

/// Makes a component of code that this program compiled.
#[expect(unsafe_code, reason = "the only way to load compiled code; the argument is below")]
pub(super) fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` asks for bytes that `precompile_component` made, unchanged. There are two
    // callers. `Engine::compile` hands over what the compiler returned, in this process or through a pipe from a
    // child of our own executable. `Cache::read` hands over bytes from a file that only our own user can write, in a
    // directory that only our own user can write, after checking their SHA-256; whoever can write there as us can
    // also replace the program. `deserialize` itself checks wasmtime's version, settings and target.
    unsafe { Component::deserialize(engine, code) }
}

enum Unusable {
    Missing,
    Odd(String),
}

struct CachedFile {
    name: String,
    bytes: u64,
    modified: i64,
}

fn open_dir(path: &Path) -> Result<OwnedFd, String> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| e.to_string())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| e.to_string())?;
    let stat = fstat(&dir).map_err(|e| e.to_string())?;
    owned_by_us(&stat, libc::S_IFDIR)?;
    Ok(dir)
}

/// Of the right kind, ours, and writable by nobody else.
fn owned_by_us(stat: &Stat, kind: u32) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    if stat.st_mode & libc::S_IFMT != kind {
        Err("not of the expected kind of file".to_owned())
    } else if stat.st_uid != us {
        Err(format!("owned by user {}, not by {us}", stat.st_uid))
    } else if stat.st_mode & 0o022 != 0 {
        Err(format!("writable by others (mode {:o})", stat.st_mode & 0o7777))
    } else {
        Ok(())
    }
}

fn compiler_hash(engine: &wasmtime::Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

const MAGIC: [u8; 16] = *b"outrigger-code\0\x02";
const HEADER_BYTES: usize = MAGIC.len() + 32;
const SUFFIX: &str = ".code";
const TEMPORARY: &str = ".tmp";
/// Of one file; Python's, the largest seen, has 33 MB.
const FILE_BYTES_MAX: u64 = 512 << 20;
const FILES_MAX: usize = 256;
/// Of all files.
const BYTES_MAX: u64 = 1 << 30;

#[cfg(test)]
mod tests;
