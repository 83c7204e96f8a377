//! Where the `openssl` program works.

use std::{fs, path::Path, process::Command};

use keyferry_schemas::world::Identity;
use tempfile::TempDir;

pub const CONTENT: &[u8] = b"dcc0xt0aeC3nqWXaXrkxJQ==.\r\n\0AChUIA==.\n";

/// A directory with a content, and certificates and keys by name.
pub struct Desk {
    directory: TempDir,
}

impl Desk {
    pub fn new(identities: &[(&str, &Identity)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("content"), CONTENT).unwrap();
        for (name, identity) in identities {
            fs::write(directory.path().join(format!("{name}.pem")), identity.certificate_pem().unwrap())
                .unwrap();
            fs::write(directory.path().join(format!("{name}.key")), identity.key_pem().unwrap()).unwrap();
        }
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .current_dir(self.path())
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What `openssl cms -sign` writes with these options.
    pub fn sign(&self, options: &str) -> Vec<u8> {
        self.openssl(&format!("cms -sign -binary -in content -outform DER -out cms {options}"));
        fs::read(self.path().join("cms")).unwrap()
    }
}
