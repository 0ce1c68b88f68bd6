use super::*;

const COMPONENT: &[u8] = b"\0asm and what follows";

fn manifest() -> Manifest {
    Manifest {
        policy: "mine".to_owned(),
        version: 7,
        digest: Digest::of(COMPONENT).to_string(),
        size: COMPONENT.len(),
        parts: 2,
        contract: "outrigger:policy@0.1.0".to_owned(),
        configuration: Some(r#"{"percent": 5}"#.to_owned()),
        published_at: 1_700_000_000,
        published_by: "somebody".to_owned(),
        message: String::new(),
        signature: None,
    }
}

fn parts() -> Vec<Vec<u8>> {
    COMPONENT.chunks(12).map(<[u8]>::to_vec).collect()
}

fn trust(at_least: u64, keys: &[&SigningKey]) -> Trust {
    Trust { at_least, keys: keys.iter().map(|key| key.public()).collect() }
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap().0
}

fn verified(manifest: &Manifest, trust: &Trust) -> Result<(), Unfit> {
    manifest.verify("mine", 7, trust, 1 << 20)
}

#[test]
fn a_manifest_comes_back_as_it_was() {
    let mut manifest = manifest();
    manifest.sign(&key());
    let json = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(Manifest::read(&json).unwrap(), manifest);
    assert!(matches!(Manifest::read(&json[..json.len() / 2]), Err(Unfit::Unreadable(_))));
    assert_eq!(verified(&manifest, &trust(0, &[])), Ok(()));
}

#[test]
fn a_component_is_the_one_that_was_published() {
    let manifest = manifest();
    assert_eq!(manifest.assemble(&parts()).unwrap(), COMPONENT);
    let mut tampered = parts();
    tampered[1][0] ^= 1;
    assert!(matches!(manifest.assemble(&tampered), Err(Unfit::WrongDigest(_))));
    let mut exchanged = parts();
    exchanged.swap(0, 1);
    assert!(matches!(manifest.assemble(&exchanged), Err(Unfit::WrongDigest(_))));
    let mut truncated = parts();
    truncated[0].pop();
    let wrong = |found| Err(Unfit::WrongSize { found, size: COMPONENT.len() });
    assert_eq!(manifest.assemble(&truncated), wrong(COMPONENT.len() - 1));
    let mut longer = parts();
    longer[1].push(0);
    assert_eq!(manifest.assemble(&longer), wrong(COMPONENT.len() + 1));
}

#[test]
fn a_manifest_stays_under_its_name_and_version() {
    let (manifest, anybody) = (manifest(), trust(0, &[]));
    let moved = Err(Unfit::Moved { policy: "mine".to_owned(), version: 7 });
    assert_eq!(manifest.verify("other", 7, &anybody, 1 << 20), moved);
    assert_eq!(manifest.verify("mine", 8, &anybody, 1 << 20), moved);
    assert_eq!(verified(&manifest, &trust(7, &[])), Ok(()));
    assert_eq!(verified(&manifest, &trust(8, &[])), Err(Unfit::TooOld { at_least: 8 }));
}

#[test]
fn only_a_trusted_key_s_signature_counts() {
    let (ours, also_ours, foreign) = (key(), key(), key());
    let trust = trust(0, &[&ours, &also_ours]);
    let mut manifest = manifest();
    assert_eq!(verified(&manifest, &trust), Err(Unfit::Unsigned));
    manifest.sign(&foreign);
    assert_eq!(verified(&manifest, &trust), Err(Unfit::UnknownKey(foreign.public().id())));
    // A signature of another key under the name of a trusted one.
    manifest.signature.as_mut().unwrap().key = ours.public().id();
    assert_eq!(verified(&manifest, &trust), Err(Unfit::BadSignature(ours.public().id())));
    manifest.sign(&also_ours);
    assert_eq!(verified(&manifest, &trust), Ok(()));
}

/// Whatever decides what runs is signed; whoever moves a manifest has to change one of these.
#[test]
fn every_field_that_matters_is_signed() {
    let key = key();
    let trust = trust(0, &[&key]);
    let mut signed = manifest();
    signed.sign(&key);
    let changes: [fn(&mut Manifest); 6] = [
        |m| m.digest = Digest::of(b"another").to_string(),
        |m| m.size += 1,
        |m| m.contract = "outrigger:policy@0.2.0".to_owned(),
        |m| m.configuration = Some(r#"{"percent": 50}"#.to_owned()),
        |m| m.configuration = None,
        |m| m.signature.as_mut().unwrap().value.replace_range(..4, "AAAA"),
    ];
    for change in changes {
        let mut changed = signed.clone();
        change(&mut changed);
        assert_eq!(verified(&changed, &trust), Err(Unfit::BadSignature(key.public().id())), "{changed:?}");
    }
    let renamed = Manifest { policy: "other".to_owned(), ..signed.clone() };
    let wrong = Err(Unfit::BadSignature(key.public().id()));
    assert_eq!(renamed.verify("other", 7, &trust, 1 << 20), wrong);
    let raised = Manifest { version: 8, ..signed };
    assert_eq!(raised.verify("mine", 8, &trust, 1 << 20), wrong);
}

/// What is signed reads the same whatever the fields hold: none of them can pretend to be two.
#[test]
fn no_field_holds_a_line_s_end() {
    let anybody = trust(0, &[]);
    for contract in ["outrigger:policy@0.1.0\nconfiguration none", "a b"] {
        let manifest = Manifest { contract: contract.to_owned(), ..manifest() };
        assert!(matches!(verified(&manifest, &anybody), Err(Unfit::Unreadable(_))), "{contract}");
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_fetched() {
    let anybody = trust(0, &[]);
    let too_large = |manifest: Manifest| matches!(verified(&manifest, &anybody), Err(Unfit::TooLarge { .. }));
    assert!(too_large(Manifest { size: (1 << 20) + 1, ..manifest() }));
    assert!(too_large(Manifest { parts: usize::MAX, ..manifest() }));
    let long = format!(r#"{{"a": "{}"}}"#, "x".repeat(CONFIGURATION_BYTES_MAX));
    for configuration in ["", "5", "[]", "{", &long] {
        let manifest = Manifest { configuration: Some(configuration.to_owned()), ..manifest() };
        assert_eq!(verified(&manifest, &anybody), Err(Unfit::Configuration));
    }
}

#[test]
fn others_words_are_shown_on_one_line() {
    assert_eq!(shortened("a\nb\x1b[31m"), "a b [31m");
    assert_eq!(shortened(&"é".repeat(400)).len(), WORDS_BYTES_MAX);
}
