//! Event files against the format, and against one that TensorBoard's own package wrote.

use super::*;

fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, rest) = data.split_at(count);
    *data = rest;
    head
}

fn events(mut file: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !file.is_empty() {
        let length = take(&mut file, 8);
        assert_eq!(take(&mut file, 4), masked_crc(length).to_le_bytes(), "checksum of the length");
        let data = take(&mut file, u64::from_le_bytes(length.try_into().unwrap()) as usize);
        assert_eq!(take(&mut file, 4), masked_crc(data).to_le_bytes(), "checksum of the data");
        events.push(Event::decode(data).unwrap());
    }
    events
}

fn file_names(dir: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn points_read_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let points = [("train/loss", 0, 2.5_f32), ("train/loss", 1, f32::NAN), ("eval/tpf", 1 << 40, -0.0)];
    let before = wall_time();
    let mut writer = EventWriter::create(&dir.path().join("made/on/demand")).unwrap();
    for (tag, step, value) in points {
        writer.scalar(tag, step, value).unwrap();
    }
    writer.flush().unwrap();

    let dir = dir.path().join("made/on/demand");
    let file = fs_err::read(dir.join(&file_names(&dir)[0])).unwrap();
    let events = events(&file);
    assert_eq!(events.len(), 1 + points.len());
    assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
    for (event, (tag, step, value)) in events[1..].iter().zip(points) {
        let time = event.wall_time;
        assert!(before <= time && time <= wall_time(), "wall time {time} is the time of writing");
        assert_eq!(event.step, step as i64);
        assert_eq!((&event.file_version, &event.session_log), (&None, &None));
        let [point] = &event.summary.as_ref().unwrap().value[..] else { panic!("one value per summary") };
        assert_eq!(point.tag, tag);
        assert_eq!(point.simple_value.unwrap().to_bits(), value.to_bits());
    }
}

#[test]
fn a_file_equals_that_of_the_package() {
    let events = [
        Event::version(1_700_000_000.0),
        Event::restart(1_700_000_000.25, 300),
        Event::scalar(1_700_000_000.5, "train/loss", 300, 2.5),
        Event::scalar(1_700_000_001.5, "eval/tpf", 5_000_000_000, -0.125),
    ];
    let mut file = Vec::new();
    for event in events {
        write_record(&mut file, &event).unwrap();
    }
    assert_eq!(file, fs_err::read("../tests/golden/tensorboard_events.tfevents").unwrap());
}

#[test]
fn each_writer_makes_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    for life in 1..=3 {
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.scalar("train/loss", life, 1.0).unwrap();
    }
    let names = file_names(dir.path());
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        assert!(name.starts_with("events.out.tfevents."), "{name}");
        assert_eq!(events(&fs_err::read(dir.path().join(name)).unwrap()).len(), 2);
    }
}
