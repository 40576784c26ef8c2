use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};

use super::*;
use crate::authenticode::RsaKey;
use crate::pe::{Pe, fake};
use crate::uki::Uki;

const SECTIONS: [(&str, &[u8]); 15] = [
    (".osrel", b"ID=example\n"),
    (".cmdline", b"quiet"),
    (".dtb", b"d"),
    (".dtbauto", b"tree"),
    (".hwids", b"ids"),
    (".uname", b"6.12.1"),
    (".splash", b"s"),
    (".pcrpkey", b"PEM"),
    (".initrd", b"initrd"),
    (".ucode", b"u"),
    (".more", b"is not measured"),
    (".linux", b"kernel"),
    (".sbat", b"sbat,1\n\0"),
    (".profile", b"ID=main"),
    (".pcrsig", b"is not measured"),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn value(sections: &[(&str, &[u8])], bank: Bank, phases: &str) -> String {
    let [value] = &Pcr11::of_sections(sections, bank)[..] else { panic!("one value") };
    hex(value.after(&phases.parse().unwrap()).value())
}

/// Printed by systemd-measure 257.13, `calculate --linux=… … --phase=: --phase=enter-initrd:leave-initrd`; with the device tree as
/// `--hwids` and the other way round, because that version takes one for the other (systemd issue 35765), and its stub does not.
#[test]
fn values_are_those_of_systemd_measure() {
    for (bank, before, after) in [
        (Bank::Sha1, "270af870ecc70a8b2ed20089aa756461cfd6e4bd", "9fe5538118d0563e02857437275250ab550fef2f"),
        (
            Bank::Sha256,
            "a32c06bb33ecf9801a94c0d9a70cae01fdf0c0bbf5bb1c44b069512f5eddd12b",
            "e103dd7318882fa5928681308abfc1faf9a8839deef2334e2587700b6a696f60",
        ),
        (
            Bank::Sha384,
            "b6be13721d3402610e2aee3ac6b6c6330c9d4eea736ba3301f89b2cc4b228d728c46f78f95120202745ce17599429c55",
            "949c428cc0b3c7c4bca67c7905f902cf7d5d20f20b803ff118605f7d6bd5b795195b668bbb718a69d782dae03fe27595",
        ),
        (
            Bank::Sha512,
            concat!(
                "6104b12d7d53953386539ccef50b0263a0027f0bff4a3f3101a46cae438f368d",
                "1e6a45fac2310b64e83e8676371efd2ea795e9dd9444e8746705e4812d13a9f6"
            ),
            concat!(
                "b8d2329097ba93178e5129da3bcc23f91ec6997b7f3ac4e0d534b33cd1753a17",
                "ee979cdd3407b4f381ea8a529789799031d089fd8672cdca4447a2d363f27930"
            ),
        ),
    ] {
        assert_eq!(value(&SECTIONS, bank, ":"), before);
        assert_eq!(value(&SECTIONS, bank, "enter-initrd::leave-initrd"), after);
        let mut reversed = SECTIONS;
        reversed.reverse();
        assert_eq!(value(&reversed, bank, ""), before, "the order in the file does not matter");
    }
}

/// `pol` in what `systemd-measure sign … --phase=enter-initrd:leave-initrd` of the same version prints.
#[test]
fn policies_are_those_of_systemd_measure() {
    let policies = [
        "e8c8c5fad8f7f6d995791dcc994206ae0ba9eb68041fa4b953f255f11d27a5e2",
        "23d4b640d5f32f2158b147af3196f9f26956bcabcf8cec5a00d41a53629b5e4d",
        "cd222544dccc717d3162c5c9d0e9c02237c2a6cec1e213332d959f9497aa739d",
        "47a02b54f32057a2a6ad28c1b04e8cfae9031dd1e0e93060881ec6409101bc9a",
    ];
    for (bank, policy) in Bank::ALL.into_iter().zip(policies) {
        let value = Pcr11::of_sections(&SECTIONS, bank).remove(0);
        assert_eq!(hex(&value.after(&PhasePath::usual()[1]).policy()), policy, "{bank}");
    }
}

#[test]
fn every_device_tree_has_a_value_of_its_own() {
    let sections: [(&str, &[u8]); 3] = [(".linux", b"kernel"), (".dtbauto", b"1"), (".dtbauto", b"2")];
    let values = Pcr11::of_sections(&sections, Bank::Sha256);
    assert_eq!(values.len(), 2);
    assert_eq!(values[0], Pcr11::of_sections(&sections[..2], Bank::Sha256)[0]);
    assert_eq!(values[1], Pcr11::of_sections(&[sections[0], sections[2]], Bank::Sha256)[0]);
}

#[test]
fn empty_sections_are_not_measured() {
    let empty: [(&str, &[u8]); 2] = [(".linux", b"kernel"), (".initrd", b"")];
    assert_eq!(Pcr11::of_sections(&empty, Bank::Sha1), Pcr11::of_sections(&empty[..1], Bank::Sha1));
}

/// The boot stub measures sections where firmware has loaded them.
#[test]
fn memory_behind_the_contents_is_measured_as_zeros() {
    let contents: &[(&str, &[u8])] = &[(".linux", b"kernel"), (".cmdline", b"quiet")];
    let padded = [b"kernel".to_vec(), vec![0; 9994]].concat();
    let mut file = fake::pe(contents);
    let values = |file: &[u8]| {
        let pe = Pe::parse(file).unwrap();
        Bank::ALL.map(|bank| Pcr11::of_profile(&Uki::parse(&pe).unwrap().profiles()[0], bank))
    };
    assert_eq!(values(&file), Bank::ALL.map(|bank| Pcr11::of_sections(contents, bank)));
    // The section takes more, so the other one comes later.
    fake::put(&mut file, fake::SECTION_TABLE + 8, 10000);
    fake::put(&mut file, fake::SECTION_TABLE + 40 + 12, 0x10000);
    fake::put(&mut file, fake::OPTIONAL_HEADER + 56, 0x11000);
    let expected = Bank::ALL.map(|bank| Pcr11::of_sections(&[(".linux", &padded), contents[1]], bank));
    assert_eq!(values(&file), expected);
}

#[test]
fn unknown_words_are_refused() {
    assert_eq!("SHA384".parse(), Ok(Bank::Sha384));
    assert!("sha3".parse::<Bank>().is_err());
    let error = "enter-initrd:sleep".parse::<PhasePath>().unwrap_err().to_string();
    assert!(error.starts_with("\"sleep\" is no phase of the boot: there are enter-initrd, leave-initrd,"), "{error}");
    assert_eq!(PhasePath::usual()[1].to_string(), "enter-initrd:leave-initrd");
    assert_eq!(PhasePath::all().len(), 7);
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    let error = PolicyKey::read(b"no key").unwrap_err().to_string();
    assert!(error.starts_with("there is no private key in it"), "{error}");
    assert!(matches!(PublicKey::from_pem(b"no key"), Err(KeyError::None)));
    let [one, other] = [(); 2].map(|()| {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        der.as_ref().to_vec()
    });
    let other = PolicyKey::read(&other).unwrap();
    let pem = other.public().to_pem().unwrap();
    assert_eq!(&PublicKey::from_pem(pem.as_bytes()).unwrap(), other.public());
    let error = PolicyKey::new(Box::new(RsaKey::read(&one).unwrap()), other.public().clone()).unwrap_err();
    assert!(matches!(error, KeyError::NotAPair));
    let error = PublicKey::from_pem(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").unwrap_err();
    assert!(matches!(error, KeyError::NotRsa));
}
