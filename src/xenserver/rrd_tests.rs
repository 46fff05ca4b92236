use super::*;
use crate::xenserver::fixtures::{SETS, answer, names, text};
use proptest::prelude::*;

type Values = Vec<(i64, usize, f64)>;

/// All values of an answer, with their times and the entries of the legend.
fn values(answer: &[u8]) -> Result<(Head<'_>, Values)> {
    let (head, mut updates) = Updates::read(answer)?;
    let (mut all, mut row) = (Vec::new(), Vec::new());
    while let Some(t) = updates.next_row(&mut row)? {
        all.extend(row.iter().enumerate().map(|(column, value)| (t, column, *value)));
    }
    Ok((head, all))
}

fn entry(column: &Column<'_>) -> String {
    let consolidation = match column.consolidation {
        Consolidation::Average => "AVERAGE",
        Consolidation::Min => "MIN",
        Consolidation::Max => "MAX",
        Consolidation::Last => "LAST",
    };
    let (owner, uuid) = match column.owner {
        Owner::Vm(uuid) => ("vm", uuid),
        Owner::Host(uuid) => ("host", uuid),
        Owner::Storage(uuid) => ("sr", uuid),
    };
    format!("{consolidation}:{owner}:{uuid}:{}", column.name)
}

/// FNV-1a, as tests/data/xenserver/library.txt has it of the library's own reading.
fn hash(head: &Head<'_>, values: &[(i64, usize, f64)]) -> u64 {
    let entries: Vec<_> = head.columns.iter().flatten().map(entry).collect();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for (t, column, value) in values {
        add(format!("{t},{},", entries[*column]).as_bytes());
        if value.is_nan() { add(b"nan") } else { add(&value.to_bits().to_le_bytes()) }
    }
    hash
}

#[test]
fn every_answer_is_what_the_library_reads_to_the_last_bit() {
    let said = text("library.txt");
    let mut files = 0;
    for line in said.lines().filter(|line| !line.starts_with('#')) {
        let (path, _) = line.split_once(' ').unwrap();
        let answer = answer(path);
        let (head, values) = values(&answer).unwrap();
        let mut rows: Vec<_> = values.iter().map(|(t, ..)| *t).collect();
        rows.dedup();
        let read = format!(
            "{path} start={} step={} end={} rows={} columns={} values={} hash={:016x}",
            head.start,
            head.step,
            head.end,
            rows.len(),
            head.columns.len(),
            values.len(),
            hash(&head, &values)
        );
        assert_eq!(read, line);
        files += 1;
    }
    let answers = SETS.iter().flat_map(|set| names(set)).filter(|name| !name.contains("vm_rrd"));
    assert_eq!(files, answers.count());
}

#[test]
fn small_answers_are_what_the_library_reads_value_by_value() {
    for path in
        SETS.iter().flat_map(|set| [set.to_string() + "/one_vm", set.to_string() + "/negative30"])
    {
        let library = text(&format!("{path}.library.csv.gz"));
        let answer = answer(&path);
        let (head, values) = values(&answer).unwrap();
        let said = library.lines().filter(|line| line.contains(",AVERAGE:"));
        let mut compared = 0;
        for (line, (t, column, value)) in said.zip(&values) {
            let (rest, said) = line.rsplit_once(',').unwrap();
            let column = entry(head.columns[*column].as_ref().unwrap());
            assert_eq!(rest, format!("{t},{column}"));
            let said: f64 = said.parse().unwrap();
            assert!(said.to_bits() == value.to_bits() || said.is_nan() && value.is_nan());
            compared += 1;
        }
        assert_eq!(compared, values.len());
    }
}

fn updates(legend: &str, data: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><xport><meta><start>5</start><step>5</step><end>10</end>\
         <rows>1</rows><columns>1</columns><legend>{legend}</legend></meta>{data}</xport>"
    )
}

const VM: &str = "<entry>AVERAGE:vm:a1a1a1a1-0001-4c1e-8d1e-000000000001:cpu0</entry>";

fn error(answer: &str) -> String {
    values(answer.as_bytes()).unwrap_err().to_string()
}

#[test]
fn special_numbers_and_names_are_read() {
    let names = "<entry>MAX:sr:a1a1a1a1-0001-4c1e-8d1e-000000000001:a:b &amp; &#x3c;</entry>\
                 <entry>what is this?</entry><entry/>";
    let row = "<row><t>10</t><v>NaN</v><v>Infinity</v><v>-Infinity</v></row>";
    let answer = updates(names, &format!("<data>{row}</data>"));
    let (head, values) = values(answer.as_bytes()).unwrap();
    assert_eq!(head.columns[0].as_ref().unwrap().name, "a:b & <");
    assert_eq!(head.columns[1..], [None, None]);
    assert!(values[0].2.is_nan());
    assert_eq!(values[1..], [(10, 1, f64::INFINITY), (10, 2, f64::NEG_INFINITY)]);
}

#[test]
fn answers_without_rows_are_read() {
    for data in ["", "<data/>", "<data></data>", "<data>\n</data>"] {
        let answer = updates(VM, data);
        let (head, values) = values(answer.as_bytes()).unwrap();
        assert_eq!((head.end, values.len()), (10, 0));
    }
}

#[test]
fn a_legend_that_is_not_as_long_as_the_rows_is_refused() {
    let row = |values| updates(VM, &format!("<data><row><t>10</t>{values}</row></data>"));
    assert!(error(&row("<v>1</v><v>2</v>")).contains("more values than the legend has names"));
    assert!(error(&row("")).contains("fewer values than the legend has names"));
}

#[test]
fn what_is_no_answer_is_refused_with_a_sentence() {
    let row = |t: &str| format!("<row><t>{t}</t><v>1</v></row>");
    let data = |rows: String| updates(VM, &format!("<data>{rows}</data>"));
    let whole = data(row("10"));
    let many = (0..500).rev().map(|number| row(&(number * 5).to_string())).collect();
    let dtd = format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{whole}");
    let deep = updates(VM, &"<a>".repeat(100));
    let overlapping = data(row("10") + &row("10"));
    let without_t = data("<row><v>1</v></row>".to_owned());
    for (answer, why) in [
        (String::new(), "no XML with the element <xport>"),
        ("<html><body>500</body></html>".to_owned(), "no XML with the element <xport>"),
        ("{\"meta\": {}}".to_owned(), "no XML with the element <xport>"),
        ("<xport><meta></meta></xport>".to_owned(), "it has no <start>"),
        (whole[..whole.len() - 20].to_owned(), "no well-formed XML"),
        (whole.replace("</data></xport>", ""), "it ends too early"),
        (whole.replace("</xport>", ""), "it ends too early"),
        (whole.replace("<step>5", "<step>0"), "no usable length of a row"),
        (whole.replace("<end>10", "<end>ten"), "its <end> is \"ten\""),
        (whole.replace("<t>10", "<t>99999999999999999"), "no usable number"),
        (whole.replace("</row>", "</raw>"), "no well-formed XML"),
        (whole.replace("cpu0", "&unheard-of;"), "no character"),
        (whole.replace("cpu0", &"x".repeat(2000)), "the length of a text"),
        (data(many), "the number of its rows"),
        (dtd, "no XML"),
        (deep, "the depth of its elements"),
        (overlapping, "its rows overlap"),
        (without_t, "a row has no <t>"),
    ] {
        let error = error(&answer);
        assert!(error.contains(why), "{error} / {why}");
    }
}

#[test]
fn the_last_counters_of_a_vm_are_read_up_to_the_archives() {
    for (set, cpu, resolution) in [
        ("xapi-1.249_8.2_drift", 7_443_131_700_000, 100_000),
        ("xapi-24.19_drift", 7_443_100_000_000, 100_000_000),
        ("xapi-26.17_steady", 7_441_013_954_265, 1),
    ] {
        let answer = answer(&format!("{set}/vm_rrd_A"));
        let vm = VmRrd::read(&answer).unwrap();
        assert_eq!(vm.step, 5);
        let cpu0 = &vm.sources[0];
        assert_eq!((cpu0.name.as_ref(), cpu0.kind), ("cpu0", SourceKind::Derive));
        assert_eq!(cpu0.last.map(|last| last.nanos), Some(cpu));
        assert_eq!(cpu0.last.map(|last| last.resolution), Some(resolution));
        let rx = vm.sources.iter().find(|source| source.name == "vif_0_rx").unwrap();
        let last = rx.last.unwrap();
        assert_eq!((last.nanos % 1_000_000_000, last.resolution), (0, 1_000_000_000));
        let memory = vm.sources.iter().find(|source| source.name == "memory").unwrap();
        assert_eq!(memory.kind, SourceKind::Gauge);
        // Nothing after it is looked at.
        let archives = answer.windows(ARCHIVES.len()).position(|here| here == ARCHIVES).unwrap();
        assert_eq!(VmRrd::read(&answer[..archives + ARCHIVES.len()]).unwrap(), vm);
        let error = VmRrd::read(&answer[..archives]).unwrap_err();
        assert!(error.to_string().ends_with("it ends too early"), "{error}");
    }
}

#[test]
fn the_time_of_the_last_counters_is_known_where_it_has_its_digits() {
    for (text, time) in [
        ("1760000401", Some((1_760_000_401_000_000_000, 1_000_000_000))),
        ("1760000401.25", Some((1_760_000_401_250_000_000, 10_000_000))),
        ("1760000401.2345678901", Some((1_760_000_401_234_567_890, 1))),
        ("1.76e+09", None),
        ("0", None),
        ("NaN", None),
        ("", None),
    ] {
        let rrd = format!("<rrd><step>5</step><lastupdate>{text}</lastupdate></rrd>");
        let read = VmRrd::read(rrd.as_bytes()).unwrap().last_update;
        assert_eq!(read.map(|time| (time.nanos, time.resolution)), time, "{text}");
    }
}

#[test]
fn numbers_are_kept_as_they_were_printed() {
    const NANO: i128 = 1_000_000_000;
    for (text, number) in [
        ("0", Some((0, NANO))),
        ("0.0", Some((0, NANO / 10))),
        ("-3.5", Some((-3_500_000_000, NANO / 10))),
        ("2.1475e+09", Some((2_147_500_000 * NANO, 100_000 * NANO))),
        ("9.1e-05", Some((91_000, 1_000))),
        ("9223372036854775807", Some((9_223_372_036_854_775_807 * NANO, NANO))),
        ("1e400", None),
        ("1e-400", Some((0, 1))),
        ("1e99999999999", None),
        ("99999999999999999999999999999", None),
        ("00000000000000000000000000000000000001", Some((NANO, NANO))),
        ("U", None),
        ("Infinity", None),
        ("1.2.3", None),
        (".", None),
        ("+1", None),
    ] {
        let read = Exact::read(text);
        assert_eq!(read.map(|number| (number.nanos, number.resolution)), number, "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_that_comes_in_is_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0_usize..2000, flipped in 0_usize..2000, with in any::<u8>(),
    ) {
        let _ = values(&bytes);
        let _ = VmRrd::read(&bytes);
        let mut whole = updates(VM, "<data><row><t>10</t><v>1.5</v></row></data>").into_bytes();
        let at = flipped % whole.len();
        whole[at] = with;
        let _ = values(&whole);
        let _ = values(&whole[..cut % whole.len()]);
    }

    #[test]
    fn any_number_is_nearly_what_it_says(number in -1e15..1e15_f64, decimals in 0_usize..12) {
        let text = format!("{number:.decimals$}");
        let read = Exact::read(&text).unwrap();
        #[allow(clippy::cast_precision_loss)]
        let nanos = read.nanos as f64;
        let said: f64 = text.parse().unwrap();
        prop_assert!((nanos / 1e9 - said).abs() <= 1e-9 + said.abs() * 1e-15);
    }
}
