//! syncfs: what stands before a session: the greeting of a dialler, the answer of a listener, Syncthing's settings.

use syncfs::FolderId;
use syncfs::greeting::{Answer, BYTES_MAX, Greeting, Label};
use syncfs::syncthing::{self, NOTES_MAX};

use crate::Seed;

/// A greeting, or an answer, or a label: what decodes is within its limits and has one encoding.
pub fn greeting(data: &[u8]) {
    if let Ok(greeting) = Greeting::decode(data) {
        assert!(data.len() <= BYTES_MAX);
        assert_eq!(greeting.encode(), data);
    }
    if let Ok(answer) = Answer::decode(data) {
        assert_eq!(answer.encode(), data);
    }
    if let Some(label) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<Label>().ok()) {
        assert_eq!(label.as_str().as_bytes(), data);
        let greeting = Greeting { folder: None, label: Some(label) };
        assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
    }
}

/// The seeds of [`greeting`].
pub fn greeting_seeds() -> Vec<Seed> {
    let label: Option<Label> = "notes".parse().ok();
    let folder = Some(FolderId::from_bytes([7; 16]));
    vec![
        ("full", Greeting { folder, label: label.clone() }.encode()),
        ("label", Greeting { folder: None, label }.encode()),
        ("empty", Greeting::default().encode()),
        ("answer", Answer::Welcome.encode()),
        ("hostile_length", b"sfg\x01\xffx".to_vec()),
        ("future", b"sfg\x02\x00\x00".to_vec()),
    ]
}

/// A configuration of Syncthing: reading it twice gives the same, every folder has a path and every key its fate once.
pub fn import(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(imported) = syncthing::parse(text) else { return };
    assert_eq!(syncthing::parse(text).ok().as_ref(), Some(&imported));
    assert!(imported.folders.iter().all(|folder| !folder.path.is_empty()));
    assert!(imported.notes.len() <= NOTES_MAX);
    assert!(imported.notes.is_sorted_by(|a, b| a.key < b.key));
    assert!(imported.this.iter().all(|this| imported.devices.iter().any(|device| device.id == *this)));
}

/// The seeds of [`import`].
pub fn import_seeds() -> Vec<Seed> {
    let whole = "<configuration version=\"37\"><folder id=\"a b\" label=\"A\" path=\"~/a\" type=\"sendonly\" \
        rescanIntervalS=\"60\"><device id=\"X\"/><paused>true</paused><versioning type=\"trashcan\"><param key=\"k\" \
        val=\"5\"/></versioning></folder><device id=\"X\" name=\"x\"><address>tcp://[fd00::1]:22001</address>\
        <address>dynamic</address><maxSendKbps>5</maxSendKbps></device><options><listenAddress>tcp://[fd00::1]:22001\
        </listenAddress><new>1</new></options></configuration>";
    vec![
        ("whole", whole.as_bytes().to_vec()),
        ("empty", b"<configuration/>".to_vec()),
        ("foreign", b"<html/>".to_vec()),
        ("hostile_entity", b"<!DOCTYPE x [<!ENTITY a 'a'>]><configuration>&a;</configuration>".to_vec()),
        ("torn", b"<configuration><folder id='a".to_vec()),
    ]
}
