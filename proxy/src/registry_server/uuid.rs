//! Random ids in the form of a UUID, version 4.

use rustix::rand::{GetRandomFlags, getrandom};

/// From the kernel's randomness, which does not fail once the machine has started.
pub(crate) fn random() -> String {
    let mut bytes = [0; 16];
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    let bits = u128::from_ne_bytes(bytes);
    let bits = bits & !(0xf << 76) | (4 << 76);
    let bits = bits & !(0b11 << 62) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_have_their_form_and_differ() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| super::random()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
        }
    }
}
