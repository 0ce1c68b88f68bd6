//! Container images, as folders that any runtime builds one from. All are from scratch: nothing is fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{self, say};

/// A workload: see `web`.
pub const IMAGE: &str = "localhost/outrigger-test:1";
/// The sidecar, as the examples call it.
pub const SIDECAR: &str = "localhost/outrigger";

/// A program without libraries, and where containers find the shell in it.
const BUSYBOX: &str = "/bin/busybox";
/// A client as people have it: it asks for names by its C library.
const CURL: &str = "/usr/bin/curl";
/// The program of which podman makes its pods' first container.
const PAUSE: &str = "/usr/bin/catatonit";
/// The server takes the lines of its head as they come, and a strict client wants them whole.
const WHO: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s' \"$REMOTE_ADDR\"\n";

/// A shell without libraries, a web server that says who asks, and curl.
pub fn web(folder: &Path) -> PathBuf {
    let context = folder.join("image");
    let bin = context.join("rootfs/bin");
    let www = context.join("rootfs/www/cgi-bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&www).unwrap();
    fs::copy(BUSYBOX, bin.join("busybox")).expect("tests/run.sh installs it");
    for name in ["sh", "sleep", "httpd", "wget", "ip", "mkdir"] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
    }
    with_libraries(CURL, &context.join("rootfs"));
    executable(&www.join("who"), WHO);
    let file =
        "FROM scratch\nCOPY rootfs/ /\nCMD [\"/bin/httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n";
    fs::write(context.join("Containerfile"), file).unwrap();
    context
}

/// The example's image of the program under test; `OUTRIGGER_STATIC` is one that needs no libraries.
pub fn sidecar(folder: &Path) -> PathBuf {
    let program =
        std::env::var_os("OUTRIGGER_STATIC").map_or_else(|| program::outrigger().into(), PathBuf::from);
    let context = folder.join("sidecar");
    let script = program::root().join("examples/containers/image.sh");
    say(Command::new(script).args([&program, &context])).expect_ok("image.sh");
    context
}

/// One that holds a pod's namespaces, as podman makes it for its own pods.
pub fn pause(folder: &Path) -> PathBuf {
    let context = folder.join("pause");
    fs::create_dir_all(&context).unwrap();
    fs::copy(PAUSE, context.join("pause")).expect("tests/run.sh installs catatonit");
    let file = "FROM scratch\nCOPY pause /\nENTRYPOINT [\"/pause\", \"-P\"]\n";
    fs::write(context.join("Containerfile"), file).unwrap();
    context
}

/// A program and the libraries that it needs, where it looks for them.
fn with_libraries(program: &str, root: &Path) {
    let said = say(Command::new("ldd").arg(program)).expect_ok(program).out;
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// Writes a script.
pub fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
