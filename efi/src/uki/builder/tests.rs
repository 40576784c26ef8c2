use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};

use super::*;
use crate::pe::fake::{FILE_HEADER, OPTIONAL_HEADER, pe};
use crate::uki::Finding;

fn stub() -> Vec<u8> {
    pe(&[
        (".text", b"code"),
        (".sbat", b"sbat,1,SBAT Version,sbat,1,x\nsystemd-stub,1,a\n"),
        (".sdmagic", b"#### LoaderInfo: systemd-stub 257 ####"),
    ])
}

fn linux() -> Vec<u8> {
    pe(&[(".text", &[1; 5000]), (".sbat", b"sbat,1,SBAT Version,sbat,1,x\nlinux,1,b\n")])
}

fn key() -> PolicyKey {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    PolicyKey::read(der.as_ref()).unwrap()
}

/// Names and contents of the sections.
fn sections(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let parsed = Pe::parse(file).unwrap();
    parsed.sections().iter().map(|section| (section.name.to_owned(), section.data.to_vec())).collect()
}

fn names_of(file: &[u8]) -> Vec<String> {
    sections(file).into_iter().map(|(name, _)| name).collect()
}

fn findings(file: &[u8]) -> Vec<Finding> {
    let parsed = Pe::parse(file).unwrap();
    Uki::parse(&parsed).unwrap().check(&parsed)
}

#[test]
fn a_uki_has_the_sections_in_the_order_of_ukify() {
    let (stub, linux) = (stub(), linux());
    let builder = Builder {
        stub: &stub,
        linux: Some(&linux),
        initrds: vec![b"first", b"second!", b"3"],
        os_release: Some(b"ID=example\n"),
        command_line: Some(b"quiet"),
        uname: Some("6.12.1"),
        microcode: Some(b"microcode"),
        splash: Some(b"BMP"),
        device_tree: Some(b"tree"),
        device_trees_auto: vec![b"tree 1", b"tree 2"],
        hwids: Some(b"ids"),
        pcr_public_key: Some(b"PEM"),
        sections: vec![(".more", b"of it")],
        ..Builder::default()
    };
    let file = builder.build().unwrap();
    assert_eq!(builder.build().unwrap(), file, "the same input gives the same bytes");
    let expected = [
        (".text", &b"code"[..]),
        (".sbat", b"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\nsystemd-stub,1,a\nlinux,1,b\n\
            uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n\0"),
        (".sdmagic", b"#### LoaderInfo: systemd-stub 257 ####"),
        (".osrel", b"ID=example\n"),
        (".cmdline", b"quiet"),
        (".dtb", b"tree"),
        (".dtbauto", b"tree 1"),
        (".dtbauto", b"tree 2"),
        (".hwids", b"ids"),
        (".uname", b"6.12.1"),
        (".splash", b"BMP"),
        (".pcrpkey", b"PEM"),
        (".linux", &linux),
        (".initrd", b"first\0\0\0second!\x003\0\0\0"),
        (".ucode", b"microcode"),
        (".more", b"of it"),
    ];
    for ((name, data), (wanted, contents)) in sections(&file).iter().zip(expected) {
        assert_eq!((&name[..], &data[..]), (wanted, contents), "{wanted}: {}", data.escape_ascii());
    }
    assert_eq!(sections(&file).len(), expected.len());
    assert_eq!(findings(&file), []);
}

#[test]
fn an_addon_has_no_kernel() {
    let stub = pe(&[(".text", b"code")]);
    let addon = Builder { stub: &stub, command_line: Some(b"console=ttyS0"), uname: Some("6.1"), ..Builder::default() };
    let file = addon.build().unwrap();
    assert_eq!(names_of(&file), [".text", ".cmdline", ".uname", ".sbat"]);
    assert!(String::from_utf8_lossy(&sections(&file)[3].1).contains("\nuki-addon,1,"));
    assert_eq!(Uki::parse(&Pe::parse(&file).unwrap()).unwrap().kind(), Kind::Addon);
    assert!(matches!(Builder { command_line: None, ..addon }.build(), Err(BuildError::Nothing)));
}

/// Firmware that lets nothing be writable and executable goes by the mark of the file that it starts.
#[test]
fn a_uki_is_marked_as_nx_compatible_if_stub_and_kernels_are() {
    let marked = |mut file: Vec<u8>| {
        file[OPTIONAL_HEADER + 70..][..2].copy_from_slice(&0x0160_u16.to_le_bytes());
        file
    };
    let flags = |builder: &Builder<'_>| {
        let file = builder.build().unwrap();
        u16::from_le_bytes(*file[OPTIONAL_HEADER + 70..].first_chunk().unwrap())
    };
    let (stub, plain) = (marked(stub()), linux());
    let kernel = marked(plain.clone());
    let builder = |linux| Builder { stub: &stub, linux, command_line: Some(b"quiet"), ..Builder::default() };
    assert_eq!(flags(&builder(Some(&kernel))), 0x0160);
    assert_eq!(flags(&builder(Some(&plain))), 0x0060);
    assert_eq!(flags(&builder(None)), 0x0160, "nothing else is executed");
    let rescue = Builder { profile: Some(b"ID=rescue\n"), ..builder(Some(&plain)) }.build().unwrap();
    assert_eq!(flags(&Builder { join_profiles: vec![&rescue], ..builder(Some(&kernel)) }), 0x0060);
}

#[test]
fn profiles_are_joined_behind_the_first_one() {
    let (stub, linux) = (stub(), linux());
    let profile =
        Builder { stub: &stub, profile: Some(b"ID=rescue\n"), command_line: Some(b"rescue"), ..Builder::default() };
    let profile = profile.build().unwrap();
    assert_eq!(names_of(&profile), [".text", ".sbat", ".sdmagic", ".profile", ".cmdline"]);
    let key = key();
    let builder = Builder {
        stub: &stub,
        linux: Some(&linux),
        command_line: Some(b"quiet"),
        os_release: Some(b"ID=example"),
        uname: Some("6"),
        join_profiles: vec![&profile],
        signers: vec![(&key, PhasePath::usual())],
        ..Builder::default()
    };
    let file = builder.build().unwrap();
    let names = [".text", ".sbat", ".sdmagic", ".osrel", ".cmdline", ".uname", ".pcrpkey", ".linux"];
    let of_profiles = [".profile", ".pcrsig", ".profile", ".cmdline", ".pcrsig"];
    assert_eq!(names_of(&file), [&names[..], &of_profiles].concat());
    assert_eq!(sections(&file)[6].1, key.public().to_pem().unwrap().into_bytes());
    assert_eq!(findings(&file), [], "signed values are those that are measured, in each profile");
    let pe = Pe::parse(&file).unwrap();
    let uki = Uki::parse(&pe).unwrap();
    let [first, second] = uki.profiles() else { panic!("{uki:?}") };
    assert_eq!((first.id(), second.id()), (Some("main"), Some("rescue")));
    assert_eq!((first.command_line(), second.command_line()), (Some("quiet"), Some("rescue")));
    let signed = |ids: Vec<&'static str>| {
        let file = Builder { sign_profiles: ids, ..builder.clone() }.build()?;
        Ok::<_, BuildError>(names_of(&file).iter().filter(|name| *name == ".pcrsig").count())
    };
    assert_eq!(signed(vec!["rescue"]).unwrap(), 1);
    let error = signed(vec!["main", "rescu"]).unwrap_err();
    assert_eq!(error.to_string(), "there is no profile with ID=rescu, whose values are to be signed");
}

#[test]
fn signatures_are_by_bank_and_once_for_each_phase() {
    let (stub, linux, key) = (stub(), linux(), key());
    let builder = Builder {
        stub: &stub,
        linux: Some(&linux),
        device_trees_auto: vec![b"1", b"2"],
        signers: vec![(&key, vec!["enter-initrd".parse().unwrap()])],
        banks: vec![Bank::Sha1, Bank::Sha256],
        ..Builder::default()
    };
    let file = builder.build().unwrap();
    let json = sections(&file).pop().unwrap().1;
    let signatures = PolicySignatures::from_json(&json).unwrap();
    assert_eq!(Bank::ALL.map(|bank| signatures.of_bank(bank).len()), [2, 2, 0, 0]);
    assert_eq!(signatures.to_json().into_bytes(), json);
    assert!(json.starts_with(b"{\"sha1\": [{\"pcrs\": [11], \"pkfp\": \""), "{}", json.escape_ascii());
    let before = Builder { signers: Vec::new(), ..builder.clone() }.build().unwrap();
    let tampered = Builder {
        command_line: Some(b"init=/bin/sh"),
        sections: vec![(".pcrsig", &json)],
        signers: Vec::new(),
        ..builder
    };
    assert!(findings(&tampered.build().unwrap()).contains(&Finding::PcrSignature { profile: 0 }));
    assert!(!findings(&before).iter().any(|finding| finding.name().starts_with("pcr")));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let (stub, linux) = (stub(), linux());
    let good = Builder { stub: &stub, linux: Some(&linux), command_line: Some(b"quiet"), ..Builder::default() };
    let refused = |builder: Builder<'_>| builder.build().unwrap_err().to_string();
    assert_eq!(
        refused(Builder { linux: Some(b"\x7fELF"), ..good.clone() }),
        "the kernel cannot be started by the boot stub"
    );
    assert_eq!(refused(Builder { stub: b"", ..good.clone() }), "the boot stub cannot be used");
    let mut arm = linux.clone();
    arm[FILE_HEADER..FILE_HEADER + 2].copy_from_slice(&0xAA64_u16.to_le_bytes());
    assert_eq!(
        refused(Builder { linux: Some(&arm), ..good.clone() }),
        "the kernel is for aa64, but the boot stub for x64"
    );
    let uki = good.build().unwrap();
    let message = "the boot stub has section .cmdline already: it is no plain stub";
    assert_eq!(refused(Builder { stub: &uki, ..good.clone() }), message);
    let message = "section .cmdline is given twice";
    assert_eq!(refused(Builder { sections: vec![(".cmdline", b"x")], ..good.clone() }), message);
    let message = "profile 1 to join is not a profile: its first section is .profile, and there is no other one";
    assert_eq!(refused(Builder { join_profiles: vec![&uki], ..good.clone() }), message);
    let key = key();
    let signers = vec![(&key, PhasePath::usual())];
    assert!(matches!(Builder { linux: None, signers, ..good.clone() }.build(), Err(BuildError::NothingToSign)));
    assert!(matches!(Builder { command_line: Some(b"\xff"), ..good }.build(), Err(BuildError::Result(_))));
}
