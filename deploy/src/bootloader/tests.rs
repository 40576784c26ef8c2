//! Machines with two ESPs, and images that have boot loaders for them.

use std::fs;

use osupdate_core::observer::Silent;
use osupdate_efi::authenticode::fake::Authority;
use osupdate_efi::pe::fake::pe;
use osupdate_efi::secure_boot::fake::{CERTIFICATE, enable, list, write_variable};
use osupdate_efi::variables::EfiVariables;
use tempfile::TempDir;

use super::offered::SHIM_DIRECTORY;
use super::*;
use crate::loader;

fn systemd_boot(version: &str) -> Vec<u8> {
    let sbat = b"sbat,1,SBAT Version,sbat,1,https://example.com\nsystemd,1,Example,systemd,1,https://example.com\n";
    pe(&[(".sdmagic", format!("#### LoaderInfo: systemd-boot {version} ####\0").as_bytes()), (".sbat", sbat)])
}

fn shim(version: &str) -> Vec<u8> {
    pe(&[(".data", format!("UEFI SHIM\n$Version: {version} $\n").as_bytes())])
}

struct Fake {
    dir: TempDir,
    boot: BootPartition,
}

/// Two ESPs, and an image.
fn fake() -> Fake {
    let dir = TempDir::new().unwrap();
    let esp = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.join("EFI/systemd")).unwrap();
        fs::create_dir_all(path.join("EFI/BOOT")).unwrap();
        Esp::new(fs::File::open(path).unwrap().into(), format!("the ESP ({name})"))
    };
    let boot = BootPartition::new(esp("one")).with_esps(vec![esp("one"), esp("two")], None);
    fs::create_dir_all(dir.path().join("image").join(loader::DIRECTORY)).unwrap();
    fs::create_dir_all(dir.path().join("image").join(SHIM_DIRECTORY)).unwrap();
    Fake { dir, boot }
}

impl Fake {
    fn write(&self, path: &str, contents: &[u8]) {
        fs::write(self.dir.path().join(path), contents).unwrap();
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(path)).unwrap()
    }

    fn programs(&self, secure_boot: &SecureBoot) -> Result<Programs, BootloaderError> {
        Programs::read(&self.dir.path().join("image"), secure_boot)
    }

    fn states(&self) -> Vec<State> {
        let status = self.programs(&SecureBoot::default()).unwrap().status(&self.boot).unwrap();
        status.into_iter().flat_map(|esp| esp.programs).map(|program| program.state).collect()
    }

    fn update(&self, secure_boot: &SecureBoot, downgrade: bool) -> Result<Vec<Replaced>, BootloaderError> {
        self.update_with(secure_boot, Allowed { downgrade, unsigned: false })
    }

    fn update_with(&self, secure_boot: &SecureBoot, allowed: Allowed) -> Result<Vec<Replaced>, BootloaderError> {
        self.programs(secure_boot)?.update(&self.boot, secure_boot, allowed, &Silent)
    }
}

/// What a machine accepts with these certificates in db, and in the owner's list if shim has started it.
fn secure_boot(db: &[&Authority], mok: Option<&Authority>, insecure: bool) -> SecureBoot {
    let variables = TempDir::new().unwrap();
    let certificates: Vec<_> = db.iter().map(|authority| authority.certificate()).collect();
    enable(variables.path(), &certificates);
    if let Some(mok) = mok {
        write_variable(variables.path(), "MokListRT", &list(CERTIFICATE, &[mok.certificate().der()]));
        write_variable(variables.path(), "MokSBStateRT", &[u8::from(insecure)]);
    }
    SecureBoot::read(&EfiVariables::new(variables.path())).unwrap()
}

fn sign(program: &[u8], authority: &Authority) -> Vec<u8> {
    authority.signer().sign(program).unwrap()
}

fn name() -> String {
    Architecture::native().unwrap().systemd_boot()
}

fn fallback() -> String {
    Architecture::native().unwrap().default_program()
}

#[test]
fn every_esp_gets_what_is_newer_and_nothing_else() {
    let fake = fake();
    let offered = format!("image/{}/{}", loader::DIRECTORY, name());
    fake.write(&offered, &systemd_boot("258.1"));
    fake.write(&format!("one/EFI/systemd/{}", name()), &systemd_boot("257.13"));
    fake.write(&format!("one/EFI/BOOT/{}", fallback()), &systemd_boot("258.1"));
    fake.write(&format!("two/EFI/systemd/{}", name()), &systemd_boot("259"));
    fake.write(&format!("two/EFI/BOOT/{}", fallback()), b"MZ something else");
    assert_eq!(fake.states(), [State::Older, State::Current, State::Newer, State::Foreign]);

    let off = SecureBoot::default();
    let replaced = fake.update(&off, false).unwrap();
    assert_eq!(
        replaced,
        [Replaced {
            place: "the ESP (one)".to_owned(),
            path: format!("EFI/systemd/{}", name()),
            from: Some("257.13".to_owned()),
            to: Some("258.1".to_owned()),
        }]
    );
    assert_eq!(fake.read(&format!("one/EFI/systemd/{}", name())), systemd_boot("258.1"));
    assert_eq!(fake.states(), [State::Current, State::Current, State::Newer, State::Foreign]);
    assert_eq!(fake.update(&off, true).unwrap().len(), 1);
    assert_eq!(fake.states(), [State::Current, State::Current, State::Current, State::Foreign]);
    // The signed form is preferred, and another build of the same version is taken.
    fake.write(&format!("{offered}.signed"), &pe(&[(".sdmagic", b"#### LoaderInfo: systemd-boot 258.1 #### x")]));
    assert_eq!(fake.states()[..3], [State::OtherBuild; 3]);
    assert_eq!(fake.update(&off, false).unwrap().len(), 3);
}

#[test]
fn shim_is_replaced_after_what_it_starts() {
    let fake = fake();
    let grub = format!("EFI/BOOT/grub{}.efi", Architecture::native().unwrap().efi_name());
    let shim_name = format!("shim{}.efi", Architecture::native().unwrap().efi_name());
    fake.write(&format!("one/{grub}"), &systemd_boot("257"));
    fake.write(&format!("one/EFI/BOOT/{}", fallback()), &shim("15.7"));
    fake.write(&format!("image/{}/{}", loader::DIRECTORY, name()), &systemd_boot("258"));
    assert_eq!(fake.states(), [State::Older, State::NotInImage]);
    fake.write(&format!("image/{SHIM_DIRECTORY}/{shim_name}.signed"), &shim("15.8"));
    let replaced = fake.update(&SecureBoot::default(), false).unwrap();
    let paths: Vec<_> = replaced.iter().map(|replaced| replaced.path.clone()).collect();
    assert_eq!(paths, [grub, format!("EFI/BOOT/{}", fallback())]);
}

#[test]
fn what_firmware_would_refuse_is_not_written() {
    let fake = fake();
    let (db, other) = (Authority::new("db"), Authority::new("other"));
    let secure_boot = secure_boot(&[&db], None, false);
    let (old, new) = (systemd_boot("257"), systemd_boot("258"));
    let offered = format!("image/{}/{}.signed", loader::DIRECTORY, name());
    fake.write(&format!("one/EFI/systemd/{}", name()), &old);
    fake.write(&offered, &other.signer().sign(&new).unwrap());
    let err = fake.update(&secure_boot, false).unwrap_err();
    assert!(matches!(err, BootloaderError::Refused { source: Refused::NotTrusted { .. }, .. }), "{err:?}");
    assert_eq!(fake.read(&format!("one/EFI/systemd/{}", name())), old);
    fake.write(&offered, &db.signer().sign(&new).unwrap());
    assert_eq!(fake.update(&secure_boot, false).unwrap().len(), 1);
}

/// Where the image has systemd-boot.
fn offered() -> String {
    format!("image/{}/{}", loader::DIRECTORY, name())
}

fn second_stage() -> String {
    format!("EFI/BOOT/grub{}.efi", Architecture::native().unwrap().efi_name())
}

#[test]
fn of_two_forms_the_one_is_taken_that_the_machine_starts() {
    let fake = fake();
    let (db, other) = (Authority::new("db"), Authority::new("other"));
    let new = systemd_boot("258");
    fake.write(&format!("one/EFI/systemd/{}", name()), &sign(&systemd_boot("257"), &db));
    fake.write(&format!("{}.signed", offered()), &sign(&new, &other));
    fake.write(&offered(), &sign(&new, &db));
    assert_eq!(fake.update(&secure_boot(&[&db], None, false), false).unwrap().len(), 1);
    assert_eq!(fake.read(&format!("one/EFI/systemd/{}", name())), sign(&new, &db));
    // Both would do.
    assert_eq!(fake.update(&secure_boot(&[&db, &other], None, false), false).unwrap().len(), 1);
    assert_eq!(fake.read(&format!("one/EFI/systemd/{}", name())), sign(&new, &other));
}

#[test]
fn rules_of_shim_hold_for_what_shim_starts_and_for_nothing_else() {
    let (db, mok) = (Authority::new("db"), Authority::new("owner"));
    let new = sign(&systemd_boot("258"), &mok);
    let with = |path: &str, there: &[u8], insecure: bool| {
        let fake = fake();
        fake.write(&offered(), &new);
        fake.write(&format!("one/{path}"), there);
        fake.update(&secure_boot(&[&db], Some(&mok), insecure), false)
    };
    let (by_db, by_mok) = (sign(&systemd_boot("257"), &db), sign(&systemd_boot("257"), &mok));
    let systemd = format!("EFI/systemd/{}", name());
    assert_eq!(with(&second_stage(), &by_mok, false).unwrap().len(), 1);
    for insecure in [false, true] {
        for path in [systemd.clone(), format!("EFI/BOOT/{}", fallback())] {
            let err = with(&path, &by_db, insecure).unwrap_err();
            assert!(matches!(err, BootloaderError::Refused { source: Refused::NotTrusted { .. }, .. }), "{err:?}");
        }
    }
    // A copy that firmware would not start: what boots is under another name.
    assert_eq!(with(&systemd, &by_mok, false).unwrap().len(), 1);
}

#[test]
fn new_shim_needs_a_second_stage_that_it_is_known_to_start() {
    let (db, mok) = (Authority::new("db"), Authority::new("owner"));
    let shim_file = format!("image/{SHIM_DIRECTORY}/shim{}.efi.signed", Architecture::native().unwrap().efi_name());
    let with = |second: &[u8], of_image: Option<&[u8]>| {
        let fake = fake();
        fake.write(&format!("one/EFI/BOOT/{}", fallback()), &sign(&shim("15.7"), &db));
        fake.write(&format!("one/{}", second_stage()), second);
        fake.write(&shim_file, &sign(&shim("15.8"), &db));
        if let Some(of_image) = of_image {
            fake.write(&offered(), of_image);
        }
        fake.update(&secure_boot(&[&db], Some(&mok), false), false).map(|replaced| replaced.len())
    };
    let by_mok = sign(&systemd_boot("257"), &mok);
    let err = with(&by_mok, None).unwrap_err();
    assert!(
        matches!(err, BootloaderError::ShimAlone { .. }),
        "its certificate may be built into the old shim: {err:?}"
    );
    assert_eq!(with(&by_mok, Some(&by_mok)).unwrap(), 1);
    assert_eq!(with(&by_mok, Some(&sign(&systemd_boot("258"), &mok))).unwrap(), 2);
    assert_eq!(with(&sign(&systemd_boot("257"), &db), None).unwrap(), 1, "db is the same for all");
}

#[test]
fn what_is_signed_stays_signed_unless_it_is_asked_for() {
    let fake = fake();
    let path = format!("one/EFI/systemd/{}", name());
    fake.write(&path, &sign(&systemd_boot("257"), &Authority::new("somebody")));
    fake.write(&offered(), &systemd_boot("258"));
    let off = SecureBoot::default();
    let before = fake.read(&path);
    let err = fake.update(&off, true).unwrap_err();
    assert!(matches!(err, BootloaderError::Unsigned { .. }), "{err:?}");
    assert!(err.hint().unwrap().contains("--allow-unsigned"));
    assert_eq!(fake.read(&path), before);
    assert_eq!(fake.update_with(&off, Allowed { unsigned: true, downgrade: false }).unwrap().len(), 1);
}

#[test]
fn what_is_no_boot_loader_for_this_machine_is_never_installed() {
    let mut other_machine = systemd_boot("258");
    other_machine[osupdate_efi::pe::fake::FILE_HEADER..][..2].copy_from_slice(&0x01c2_u16.to_le_bytes());
    for bad in [&b""[..], b"MZ #### LoaderInfo: systemd-boot 258 ####", &shim("15.8"), &pe(&[]), &other_machine] {
        let fake = fake();
        fake.write(&format!("one/EFI/systemd/{}", name()), &systemd_boot("257"));
        fake.write(&offered(), bad);
        let err = fake.update(&SecureBoot::default(), true).unwrap_err();
        assert!(matches!(err, BootloaderError::Damaged { .. } | BootloaderError::OtherProgram { .. }), "{err:?}");
        assert!(err.to_string().contains(&name()) && err.hint().is_some(), "{err}");
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "tests say what they leave out")]
fn systemd_boot_of_the_distribution_is_one() {
    let architecture = Architecture::native().unwrap();
    let found = Offered::find(Path::new("/"), Kind::SystemdBoot, architecture, &SecureBoot::default()).unwrap();
    let Some(found) = found else {
        assert!(std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_none(), "run tests/install-deps");
        eprintln!("skipped: systemd-boot-efi is not installed");
        return;
    };
    let version = found.identity.version().unwrap().to_owned();
    let major: u32 = version.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    assert_eq!(found.identity.hides_uki_key(), major < 258, "{version}");
}

#[test]
fn uki_in_place_of_a_boot_loader_is_left_alone_however_large() {
    let fake = fake();
    let path = fake.dir.path().join(format!("one/EFI/BOOT/{}", fallback()));
    fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    fake.write(&format!("one/EFI/systemd/{}", name()), &systemd_boot("257"));
    fake.write(&offered(), &systemd_boot("258"));
    assert_eq!(fake.states(), [State::Older, State::Foreign]);
    assert_eq!(fake.update(&SecureBoot::default(), true).unwrap().len(), 1);
    assert_eq!(fs::metadata(path).unwrap().len(), (64 << 20) + 1);
}
