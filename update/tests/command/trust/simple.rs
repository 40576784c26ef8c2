//! OpenPGP signatures by `skopeo copy --sign-by`, and those that do not count.

use std::fs;
use std::path::Path;

use osupdate::trust::{SignatureKind, SignatureProblem, TrustError};
use serde_json::json;

use super::{Lab, have_tools, payload, signed_by, signed_by_as};
use crate::place::Place;

const KIND: &str = "atomic container signature";

#[test]
fn signatures_by_skopeo_are_good() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    for algorithm in ["ed25519", "rsa2048", "nistp256"] {
        let key = lab.gpg.key(&format!("signer-{algorithm}"), None, algorithm, "1y");
        let file = lab.gpg.export(&key, &[]);
        let image = lab.push_signed("one", &format!("{algorithm}:1"), &key);
        let verdict = lab.check(&image, &signed_by(&[&file])).unwrap();
        let signer = &verdict.signers[0];
        assert_eq!(verdict.signers.len(), 1);
        assert!(verdict.is_signed());
        assert_eq!((signer.kind, &signer.key), (SignatureKind::OpenPgp, &key));
        assert_eq!(signer.user_id.as_deref(), Some(&*format!("signer-{algorithm} <signer-{algorithm}@example.com>")));
        assert_eq!(signer.key_file.as_deref(), Some(&*file));
        assert_eq!(signer.identity, image.strip_prefix("docker://").unwrap());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((now - 300..=now).contains(&signer.signed_at.unwrap()), "{signer:?}");
    }
}

#[test]
fn keys_may_be_armored_many_inline_and_in_directories() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let keys: Vec<_> = ["a", "b"].map(|name| lab.gpg.key(name, None, "ed25519", "never")).into();
    let armored: Vec<_> = keys.iter().map(|key| lab.gpg.export(key, &["--armor"])).collect();
    let image = lab.push_signed("one", "os:1", &keys[1]);
    let both = fs::read_to_string(&armored[0]).unwrap() + &fs::read_to_string(&armored[1]).unwrap();
    let both_file = lab.file(&both);
    assert_eq!(lab.check(&image, &signed_by(&[&both_file])).unwrap().signers[0].key, keys[1]);
    assert_eq!(lab.check(&image, &signed_by(&[&armored[0], &armored[1]])).unwrap().signers[0].key, keys[1]);
    let binary = fs::read(lab.gpg.export(&keys[1], &[])).unwrap();
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(binary);
    let inline = json!([{"type": "signedBy", "keyType": "GPGKeys", "keyData": data}]);
    let verdict = lab.check(&image, &inline).unwrap();
    assert_eq!((&verdict.signers[0].key, &verdict.signers[0].key_file), (&keys[1], &None));

    // Directories are ours alone.
    let directory = lab.path("keys");
    fs::create_dir(&directory).unwrap();
    for (name, file) in [("1.asc", &armored[0]), ("2.asc", &armored[1])] {
        fs::copy(file, directory.join(name)).unwrap();
    }
    let policy = lab.policy(&signed_by(&[&directory]));
    let verdict = lab.ours(&image, &policy).unwrap();
    assert_eq!(verdict.signers[0].key_file.as_deref(), Some(&*directory.join("2.asc")));
    fs::write(directory.join("3.asc"), "no key").unwrap();
    let error = lab.ours(&image, &policy).unwrap_err();
    let TrustError::Keys { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("3.asc"), "{source}");
}

#[test]
fn another_key_and_no_signature_are_told_apart() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let (key, other) = (lab.gpg.key("a", None, "ed25519", "never"), lab.gpg.key("b", None, "ed25519", "never"));
    let (file, other_file) = (lab.gpg.export(&key, &[]), lab.gpg.export(&other, &[]));
    let image = lab.push_signed("one", "os:1", &other);
    let problem = lab.problem(&image, &signed_by(&[&file]));
    let SignatureProblem::OtherKey { key: by, trusted } = &problem else { panic!("{problem}") };
    assert_eq!((by, trusted), (&other, &file.display().to_string()));

    // All conditions must be met, by whatever signatures there are.
    let both = json!([signed_by(&[&file])[0], signed_by(&[&other_file])[0]]);
    assert!(lab.check(&image, &both).is_err());
    // skopeo removes those of others.
    let signatures = lab.signatures(&image);
    let by_other = fs::read(signatures.join("signature-1")).unwrap();
    lab.push_signed("one", "os:1", &key);
    fs::write(signatures.join("signature-2"), by_other).unwrap();
    fs::write(signatures.join("signature-3"), b"\xa3 no signature").unwrap();
    let verdict = lab.check(&image, &both).unwrap();
    assert_eq!(verdict.signers.iter().map(|signer| &signer.key).collect::<Vec<_>>(), [&key, &other]);
    // One good signature is enough, whatever else is there.
    assert_eq!(lab.check(&image, &signed_by(&[&file])).unwrap().signers.len(), 1);

    // Stripped.
    fs::remove_dir_all(&signatures).unwrap();
    let error = lab.check(&image, &signed_by(&[&file])).unwrap_err();
    let TrustError::NoSignature { kind, places, .. } = &error else { panic!("{error}") };
    assert_eq!(*kind, "OpenPGP");
    assert!(places.contains(&format!("file://{}", signatures.display())), "{places}");
    let text = error.to_string();
    for part in [&image, "manifest sha256:", "its default", "file-"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(error.hint().unwrap().contains("registries.d"));
}

#[test]
fn another_image_and_another_name_are_told_apart() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let key = lab.gpg.key("a", None, "ed25519", "never");
    let file = lab.gpg.export(&key, &[]);
    let one = lab.push_signed("one", "os:1", &key);
    let two = lab.push("two", "os:2", &[]);
    let moved = lab.push("one", "os:newest", &[]);
    let renamed = lab.push("one", "other:1", &[]);
    let policy = signed_by(&[&file]);

    // The signatures of one image put where another's are looked for.
    let copy = |from: &str, to: &str| {
        let target = lab.signatures(to);
        fs::create_dir_all(&target).unwrap();
        fs::copy(lab.signatures(from).join("signature-1"), target.join("signature-1")).unwrap();
    };
    copy(&one, &two);
    copy(&one, &renamed);
    let problem = lab.problem(&two, &policy);
    let SignatureProblem::Digest { signed, found } = &problem else { panic!("{problem}") };
    assert_eq!(*signed, crate::layout::sha256(&lab.manifest(&one)));
    assert_eq!(found.to_string(), crate::layout::sha256(&lab.manifest(&two)));
    for image in [&moved, &renamed] {
        let problem = lab.problem(image, &policy);
        let SignatureProblem::Identity { signed, accepted } = &problem else { panic!("{problem}") };
        assert_eq!(format!("docker://{signed}"), one);
        assert_eq!(format!("docker://{accepted}"), **image);
    }
    // By digest any tag of the repository will do.
    let digest = crate::layout::sha256(&lab.manifest(&one));
    assert!(lab.check(&format!("{}@{digest}", one.strip_suffix(":1").unwrap()), &policy).is_ok());
    assert!(lab.check(&format!("{}@{digest}", renamed.strip_suffix(":1").unwrap()), &policy).is_err());
    // Identities that allow the name.
    let repository = json!({"type": "matchRepository"});
    assert!(lab.check(&moved, &signed_by_as(&file, repository)).is_ok());
    let exact = json!({"type": "exactReference", "dockerReference": one.strip_prefix("docker://").unwrap()});
    assert!(lab.check(&renamed, &signed_by_as(&file, exact)).is_ok());
}

#[test]
fn expired_and_revoked_keys_are_told_apart() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let image = lab.push("one", "os:1", &[]);
    let document = payload(KIND, &lab.manifest(&image), image.strip_prefix("docker://").unwrap()).to_string();
    let directory = lab.signatures(&image);
    fs::create_dir_all(&directory).unwrap();
    let put = |signature: &[u8]| fs::write(directory.join("signature-1"), signature).unwrap();

    // Expired since it signed.
    let key = lab.gpg.key("expired", Some("20200101T000000"), "ed25519", "1y");
    put(&lab.gpg.sign(&key, Some("20200601T000000"), &[], document.as_bytes()));
    let problem = lab.problem(&image, &signed_by(&[&lab.gpg.export(&key, &[])]));
    assert_eq!(problem, SignatureProblem::KeyExpired { key, expired: "2020-12-31".to_owned() });

    // Expired before it signed.
    let key = lab.gpg.key("late", Some("20200101T000000"), "ed25519", "1y");
    put(&lab.gpg.sign(&key, Some("20200601T000000"), &[], document.as_bytes()));
    lab.gpg.run(Some("20200201T000000"), &["--quick-set-expire", &key, "20200301T000000"], b"");
    let problem = lab.problem(&image, &signed_by(&[&lab.gpg.export(&key, &[])]));
    let (made, expired) = ("2020-06-01".to_owned(), "2020-03-01".to_owned());
    assert_eq!(problem, SignatureProblem::MadeAfterExpiry { key, made, expired });

    // The signature expired.
    let key = lab.gpg.key("short", Some("20200101T000000"), "ed25519", "never");
    put(&lab.gpg.sign(&key, Some("20200601T000000"), &["--default-sig-expire", "10d"], document.as_bytes()));
    let problem = lab.problem(&image, &signed_by(&[&lab.gpg.export(&key, &[])]));
    assert_eq!(problem, SignatureProblem::Expired { expired: "2020-06-11".to_owned() });

    // Revoked, in one of two files that have the key.
    let key = lab.gpg.key("revoked", None, "ed25519", "never");
    put(&lab.gpg.sign(&key, None, &[], document.as_bytes()));
    let before = lab.gpg.export(&key, &["--armor"]);
    assert!(lab.check(&image, &signed_by(&[&before])).is_ok());
    lab.gpg.revoke(&key);
    let after = lab.gpg.export(&key, &[]);
    for keys in [&[&*after][..], &[&before, &after], &[&after, &before]] {
        let problem = lab.problem(&image, &signed_by(keys));
        assert!(matches!(&problem, SignatureProblem::KeyRevoked { key: revoked, .. } if *revoked == key), "{problem}");
    }

    // From the future, as everything is where the clock was never set.
    let key = lab.gpg.key("future", Some("20400101T000000"), "ed25519", "never");
    put(&lab.gpg.sign(&key, Some("20400101T000000"), &[], document.as_bytes()));
    let problem = lab.problem(&image, &signed_by(&[&lab.gpg.export(&key, &[])]));
    assert_eq!(problem, SignatureProblem::Future { made: "2040-01-01".to_owned() });
    assert!(problem.hint().unwrap().contains("clock"));

    // Weak, and changed on the way.
    let key = lab.gpg.key("weak", None, "rsa2048", "never");
    let file = lab.gpg.export(&key, &[]);
    let weak = lab.gpg.sign(&key, None, &["--digest-algo", "SHA1", "--compress-algo", "none"], document.as_bytes());
    put(&weak);
    let policy = lab.policy(&signed_by(&[&file]));
    let problem = super::problem(lab.ours(&image, &policy));
    assert!(matches!(problem, SignatureProblem::Weak(_)), "{problem}");
    let mut changed = lab.gpg.sign(&key, None, &["--compress-algo", "none"], document.as_bytes());
    let at = changed.windows(6).position(|bytes| bytes == b"a test").unwrap();
    changed[at] = b'A';
    put(&changed);
    let problem = lab.problem(&image, &signed_by(&[&file]));
    assert_eq!(problem, SignatureProblem::Bad { key });
}

#[test]
fn subkeys_sign_for_their_key() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let image = lab.push("one", "os:1", &[]);
    let document = payload(KIND, &lab.manifest(&image), image.strip_prefix("docker://").unwrap()).to_string();
    let directory = lab.signatures(&image);
    fs::create_dir_all(&directory).unwrap();
    // The skopeo of Debian 12 does not know whose they are.
    let check = |key: &str, signature: &[u8]| {
        fs::write(directory.join("signature-1"), signature).unwrap();
        lab.ours(&image, &lab.policy(&signed_by(&[&lab.gpg.export(key, &[])])))
    };
    let key = lab.gpg.key("a", None, "ed25519", "never");
    lab.gpg.add_subkey(&key, None, "1y");
    let signature = lab.gpg.sign(&key, None, &[], document.as_bytes());
    assert_eq!(check(&key, &signature).unwrap().signers[0].key, key);

    let key = lab.gpg.key("old", Some("20200101T000000"), "ed25519", "never");
    let without = fs::read(lab.gpg.export(&key, &[])).unwrap();
    lab.gpg.add_subkey(&key, Some("20200101T000000"), "1y");
    let signature = lab.gpg.sign(&key, Some("20200601T000000"), &[], document.as_bytes());
    let problem = super::problem(check(&key, &signature));
    assert_eq!(problem, SignatureProblem::KeyExpired { key, expired: "2020-12-31".to_owned() });
    // A key file from before the subkey does not help.
    let policy = lab.policy(&signed_by(&[&lab.file(without)]));
    assert!(matches!(super::problem(lab.ours(&image, &policy)), SignatureProblem::OtherKey { .. }));

    // What ends for the key ends for its subkeys.
    let key = lab.gpg.key("over", Some("20200101T000000"), "ed25519", "1y");
    lab.gpg.add_subkey(&key, Some("20200101T000000"), "never");
    let problem = super::problem(check(&key, &lab.gpg.sign(&key, Some("20200601T000000"), &[], document.as_bytes())));
    assert_eq!(problem, SignatureProblem::KeyExpired { key, expired: "2020-12-31".to_owned() });
    let key = lab.gpg.key("revoked", None, "ed25519", "never");
    lab.gpg.add_subkey(&key, None, "never");
    let signature = lab.gpg.sign(&key, None, &[], document.as_bytes());
    assert!(check(&key, &signature).is_ok());
    lab.gpg.revoke(&key);
    let problem = super::problem(check(&key, &signature));
    assert!(matches!(problem, SignatureProblem::KeyRevoked { .. }), "{problem}");

    // A key whose own signature is with SHA-1.
    let key = lab.gpg.key_with("weak", &["--cert-digest-algo", "SHA1"]);
    let problem = super::problem(check(&key, &lab.gpg.sign(&key, None, &[], document.as_bytes())));
    assert!(
        matches!(problem, SignatureProblem::KeyUnusable { .. }) && problem.to_string().contains("SHA1"),
        "{problem}"
    );
}

#[test]
fn pulling_heeds_the_policy_and_tells_who_signed() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let key = lab.gpg.key("a", None, "ed25519", "never");
    let file = lab.gpg.export(&key, &[]);
    let (signed, unsigned) = (lab.push_signed("one", "os:1", &key), lab.push("two", "os:2", &[]));
    let place = Place::with_repository();
    let pull = |reference: &str, policy: &Path, arguments: &[&str]| {
        let registries_d = lab.path("registries.d");
        let trust = ["--policy", policy.to_str().unwrap(), "--registries-d", registries_d.to_str().unwrap()];
        place.run(&[&["image", "pull", reference, "--plain-http", "--quiet"][..], &trust, arguments].concat())
    };
    let policy = lab.policy(&signed_by(&[&file]));
    let text = pull(&signed, &policy, &[]).done();
    assert!(text.contains(&format!("  signed      OpenPGP key {key} (a <a@example.com>), 20")), "{text}");
    let json = pull(&signed, &policy, &["--json"]).json();
    assert_eq!(json["signatures"][0]["kind"], "openpgp");
    assert_eq!(json["signatures"][0]["key"], *key);
    let message = pull(&unsigned, &policy, &[]).failed(1);
    assert!(message.contains("has no OpenPGP signature, but trust policy"), "{message}");
    assert!(message.contains("\n  hint: have this very image signed"), "{message}");
    let accept = lab.policy(&json!([{"type": "insecureAcceptAnything"}]));
    let text = pull(&unsigned, &accept, &[]).done();
    assert!(text.contains("  signed      no"), "{text}");
    let reject = lab.policy(&json!([{"type": "reject"}]));
    let message = pull(&signed, &reject, &[]).failed(1);
    assert!(
        message.contains(&format!("trust policy {} rejects {signed} (its default)", reject.display())),
        "{message}"
    );
    let message = pull(&signed, Path::new("/nonexistent/policy.json"), &[]).failed(1);
    assert!(message.contains("cannot read /nonexistent/policy.json"), "{message}");

    // Directories that skopeo makes carry the signatures, but no name.
    let target = lab.path("copied");
    let mut copy = lab.skopeo();
    copy.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &signed]);
    assert!(copy.arg(format!("dir:{}", target.display())).status().unwrap().success());
    let reference = format!("dir:{}", target.display());
    assert!(matches!(lab.problem(&reference, &signed_by(&[&file])), SignatureProblem::Identity { .. }));
    let exact = json!({"type": "exactReference", "dockerReference": signed.strip_prefix("docker://").unwrap()});
    assert_eq!(lab.check(&reference, &signed_by_as(&file, exact)).unwrap().signers[0].key, key);
}
