//! Scenes whose processes take over from one another.

use std::os::unix::fs::chown;

use tempfile::TempDir;

use super::Scene;

/// What they share: where sockets are passed on, and what is remembered. It outlives each of them.
#[derive(Debug)]
pub struct Line(TempDir);

impl Default for Line {
    fn default() -> Self {
        Self(TempDir::new().unwrap())
    }
}

impl Line {
    pub fn socket(&self) -> std::path::PathBuf {
        self.0.path().join("handover")
    }
}

impl Scene {
    /// Takes over from the one before it in this line, if there is one.
    pub fn in_line(mut self, line: &Line) -> Self {
        if self.user.is_some() {
            chown(line.0.path(), self.user, self.user).unwrap();
        }
        self.handover = Some(line.socket());
        let state = line.0.path().join("state");
        self.set("state_dir", state.to_str().unwrap())
    }

    /// The same once more, in a folder of its own.
    pub fn again(&self) -> Self {
        let new = Self {
            fields: self.fields.clone(),
            services: self.services.clone(),
            environment: self.environment.clone(),
            capabilities: self.capabilities,
            handover: self.handover.clone(),
            user: self.user,
            ..Self::new()
        };
        if let Some(user) = self.user {
            chown(new.dir.path(), Some(user), Some(user)).unwrap();
        }
        new
    }
}
