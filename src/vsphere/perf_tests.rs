use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::sync::LazyLock;
use std::time::Instant;

use super::*;
use crate::vsphere::fixtures::{enveloped, object, page_of, raw};
use proptest::prelude::*;

/// Those of a vCenter 6.5, read once.
fn known() -> &'static Counters {
    static KNOWN: LazyLock<Counters> = LazyLock::new(|| {
        let packed =
            include_bytes!("../../tests/data/vsphere/raw/RetrievePropertiesEx_perfCounter.xml.gz");
        let mut body = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut body).unwrap();
        Counters::read(&body).unwrap()
    });
    &KNOWN
}

/// The entities of an answer, with all that is in them.
type Told = Vec<(String, Vec<(i64, u32)>, Vec<(Counter, String, Vec<Option<i64>>)>)>;

fn read(body: &[u8]) -> Told {
    let mut told = Vec::new();
    let done = samples(body, known(), |entity| {
        let times = entity.times().iter().map(|time| (time.end, time.seconds)).collect();
        let series = entity.series().map(|(c, name, values)| (c, name.to_owned(), values.to_vec()));
        told.push((entity.moref.to_owned(), times, series.collect()));
    });
    done.unwrap();
    told
}

fn answered(entities: &str) -> String {
    enveloped(&format!("<QueryPerfResponse xmlns=\"urn:vim25\">{entities}</QueryPerfResponse>"))
}

fn id(counter: u32, instance: &str) -> String {
    format!("<id><counterId>{counter}</counterId><instance>{instance}</instance></id>")
}

/// An entity as a vCenter writes it, comma separated.
fn csv(vm: &str, times: &str, series: &[(u32, &str, &str)]) -> String {
    let one = |(counter, instance, values): &(u32, &str, &str)| {
        let id = id(*counter, instance);
        format!("<value xsi:type=\"PerfMetricSeriesCSV\">{id}<value>{values}</value></value>")
    };
    let series = series.iter().map(one).collect::<Vec<_>>().concat();
    format!(
        "<returnval xsi:type=\"PerfEntityMetricCSV\"><entity type=\"VirtualMachine\">{vm}</entity>\
         <sampleInfoCSV>{times}</sampleInfoCSV>{series}</returnval>"
    )
}

/// The same in the other form.
fn normal(vm: &str, times: &str, series: &[(u32, &str, &str)]) -> String {
    let each = |text: &str, write: &dyn Fn(&str) -> String| {
        text.split(',').filter(|part| !part.is_empty()).map(write).collect::<Vec<_>>().concat()
    };
    let parts: Vec<_> = times.split(',').collect();
    let info = |pair: &[&str]| {
        let (interval, end) = (pair[0], pair.get(1).unwrap_or(&""));
        format!(
            "<sampleInfo><timestamp>{end}</timestamp><interval>{interval}</interval></sampleInfo>"
        )
    };
    let infos =
        parts.chunks(2).filter(|_| !times.is_empty()).map(info).collect::<Vec<_>>().concat();
    let one = |(counter, instance, values): &(u32, &str, &str)| {
        let (id, values) =
            (id(*counter, instance), each(values, &|v| format!("<value>{v}</value>")));
        format!("<value xsi:type=\"PerfMetricIntSeries\">{id}{values}</value>")
    };
    let series = series.iter().map(one).collect::<Vec<_>>().concat();
    format!(
        "<returnval xsi:type=\"PerfEntityMetric\"><entity type=\"VirtualMachine\">{vm}</entity>\
         {infos}{series}</returnval>"
    )
}

/// What both forms of an entity are read as, alike.
fn both(times: &str, series: &[(u32, &str, &str)]) -> Told {
    let comma_separated = read(answered(&csv("vm-1", times, series)).as_bytes());
    assert_eq!(comma_separated, read(answered(&normal("vm-1", times, series)).as_bytes()));
    comma_separated
}

const THREE: &str = "20,2027-01-15T07:59:20Z,20,2027-01-15T07:59:40Z,20,2027-01-15T08:00:00Z";
const LAST: i64 = 1_800_000_000;
const THREE_TIMES: [(i64, u32); 3] = [(LAST - 40, 20), (LAST - 20, 20), (LAST, 20)];

#[test]
fn the_counters_of_a_vcenter_are_known_by_name() {
    let counters = known();
    assert_eq!(counters.lacking().next(), None);
    let asked = counters.asked();
    assert_eq!(asked.len(), TABLE.len());
    for expected in [(402, ""), (14, ""), (155, ""), (98, ""), (148, "*"), (461, "*"), (176, "*")] {
        assert!(asked.contains(&expected), "{expected:?}");
    }
    assert_eq!(counters.0[&171], Counter::DiskReads);
}

#[test]
fn a_counter_that_is_not_there_is_lacking() {
    let info = |key: &str, name: &str, unit: &str, rollup: &str| {
        format!(
            "<PerfCounterInfo><key>{key}</key><nameInfo><label>x</label><key>{name}</key></nameInfo>\
             <groupInfo><key>cpu</key></groupInfo><unitInfo><key>{unit}</key></unitInfo>\
             <rollupType>{rollup}</rollupType></PerfCounterInfo>"
        )
    };
    let read = |infos: &[String]| {
        let property = [("perfCounter", "ArrayOfPerfCounterInfo", &*infos.concat())];
        Counters::read(page_of(&object("PerformanceManager", "P", &property)).as_bytes())
    };
    let counters = read(&[
        info("7", "run", "millisecond", "summation"),
        info("8", "run", "millisecond", "summation"),
        info("9", "ready", "percent", "summation"),
        info("10", "wait", "millisecond", "average"),
        info("-1", "idle", "millisecond", "summation"),
    ])
    .unwrap();
    assert_eq!(counters.asked(), [(7, "")]);
    let lacking: Vec<_> = counters.lacking().collect();
    assert_eq!(lacking.len(), TABLE.len() - 1);
    assert!(lacking.contains(&"cpu.ready.summation") && !lacking.contains(&"cpu.run.summation"));
    let none = SoapError::Unexpected("it has none of the counters that are needed");
    assert_eq!(read(&[]), Err(none));
}

#[test]
fn the_table_is_in_order() {
    let mut names = HashSet::new();
    for (place, (counter, name, unit, _)) in TABLE.iter().enumerate() {
        assert_eq!(*counter as usize, place);
        assert!(names.insert(name) && !unit.is_empty());
    }
}

#[test]
fn the_samples_of_vcsim_are_understood() {
    let told = read(raw!("QueryPerf"));
    assert_eq!(told.len(), 3);
    let (moref, times, series) = &told[0];
    assert_eq!(moref, "vm-27");
    // vcsim has the newest first.
    let last = 1_795_653_418;
    assert_eq!(*times, [(last - 40, 20), (last - 20, 20), (last, 20)]);
    let expected = (Counter::CpuRun, String::new(), vec![Some(1252), Some(1804), Some(3324)]);
    assert_eq!(series[0], expected);
    // One series has two values for three times.
    assert!(series.iter().all(|(counter, ..)| *counter != Counter::DiskRead));
}

#[test]
fn the_samples_of_a_vcenter_are_understood() {
    let first = [
        (402, "", "712,-1,509"),
        (148, "4000", "1,2,3"),
        (148, "vmnic0", "4,5,6"),
        (173, "scsi0:0", "0,9223372036854775807,0"),
    ];
    let body = answered(&[csv("vm-1", THREE, &first), csv("vm-2", "", &[(402, "", "")])].concat());
    let told = read(body.as_bytes());
    let series = vec![
        (Counter::CpuRun, String::new(), vec![Some(712), None, Some(509)]),
        (Counter::NicReceived, "4000".to_owned(), vec![Some(1), Some(2), Some(3)]),
        (Counter::NicReceived, "vmnic0".to_owned(), vec![Some(4), Some(5), Some(6)]),
        (Counter::DiskRead, "scsi0:0".to_owned(), vec![Some(0), Some(i64::MAX), Some(0)]),
    ];
    assert_eq!(told[0], ("vm-1".to_owned(), THREE_TIMES.to_vec(), series));
    let empty = vec![(Counter::CpuRun, String::new(), vec![])];
    assert_eq!(told[1], ("vm-2".to_owned(), vec![], empty));
    assert_eq!(both(THREE, &first)[0], told[0]);
}

#[test]
fn a_series_that_is_too_short_or_too_long_is_dropped_alone() {
    let series = [(402, "", "1,2"), (14, "", "1,2,3"), (12, "", "1,2,3,4"), (11, "", "")];
    let told = both(THREE, &series);
    let expected = (Counter::CpuUsed, String::new(), vec![Some(1), Some(2), Some(3)]);
    assert_eq!(told[0].2, [expected]);
}

#[test]
fn each_time_is_told_once_and_in_order() {
    // In other zones, with fractions, from new to old, and one that cannot be read.
    let times = "20,2027-01-15T09:00:00.5+01:00,20,yesterday,20,2027-01-15T07:59:20Z,\
                 0,2027-01-15T07:59:40Z,20,2027-01-15T02:29:40-05:30";
    let told = both(times, &[(402, "", "3,9,1,9,2")]);
    assert_eq!(told[0].1, THREE_TIMES);
    assert_eq!(told[0].2[0].2, [Some(1), Some(2), Some(3)]);

    let time = |second: u32| format!("20,2027-01-15T08:00:{second:02}Z");
    let twice = [time(0), time(20), time(0), time(20), time(40), time(40)].join(",");
    let told = both(&twice, &[(402, "", "5,-1,5,6,7,8"), (12, "", "-1,-1,-1,-1,-1,0")]);
    assert_eq!(told[0].1, [(LAST, 20), (LAST + 20, 20), (LAST + 40, 20)]);
    // The same, one that came later, and two different ones.
    assert_eq!(told[0].2[0].2, [Some(5), Some(6), None]);
    assert_eq!(told[0].2[1].2, [None, None, Some(0)]);
    let longer = format!("{},40,2027-01-15T08:00:00Z", time(0));
    let told = both(&longer, &[(402, "", "5,5")]);
    assert_eq!((told[0].1.len(), &told[0].2[0].2[..]), (1, [None].as_slice()));

    let told = both("never", &[(402, "", "1"), (12, "", "1,2")]);
    assert_eq!((told[0].1.len(), told[0].2.len(), told[0].2[0].2.len()), (0, 1, 0));
}

#[test]
fn what_is_unknown_or_wrong_harms_nothing_else() {
    let long = "x".repeat(MAX_NAME + 1);
    let series = [
        (999_999, "", "1,2,3"),
        (148, &long, "1,2,3"),
        (148, "4000", "1,two,3"),
        (148, "4000", "7,7,7"),
        (148, " 4001 ", " 1 , 2.5 ,-7"),
    ];
    let wrong = "<value><id/><value>1,2,3</value></value><value>5</value>";
    let entity =
        csv("vm-1", THREE, &series).replace("</returnval>", &format!("{wrong}</returnval>"));
    let nameless = csv("", THREE, &[(402, "", "1,2,3")]);
    let odd = "<returnval/>".to_owned();
    let good = csv("vm-2", THREE, &[(402, "", "1,2,3")]);
    let told = read(answered(&[entity, nameless, odd, good].concat()).as_bytes());
    assert_eq!(told.len(), 2);
    let expected = [
        (Counter::NicReceived, "4000".to_owned(), vec![Some(1), None, Some(3)]),
        (Counter::NicReceived, "4001".to_owned(), vec![Some(1), None, None]),
    ];
    assert_eq!(told[0].2, expected);
    assert_eq!((told[1].0.as_str(), told[1].2.len()), ("vm-2", 1));
}

#[test]
fn a_fault_is_an_error() {
    let fault = samples(raw!("fault_NotAuthenticated"), known(), |_| panic!("it has no samples"));
    assert!(matches!(fault, Err(SoapError::Fault(_))));
}

proptest! {
    /// Whatever order the times come in, and however often.
    #[test]
    fn each_value_is_of_its_time(order in prop::collection::vec(0_u32..60, 0..40)) {
        let times: Vec<_> =
            order.iter().map(|n| format!("20,2027-01-15T08:{n:02}:00Z")).collect();
        // A value that tells its time.
        let values: Vec<_> = order.iter().map(ToString::to_string).collect();
        let told = both(&times.join(","), &[(402, "", &values.join(","))]);
        let mut expected: Vec<_> = order.iter().map(|n| i64::from(*n)).collect();
        expected.sort_unstable();
        expected.dedup();
        let found: Vec<_> = told[0].1.iter().map(|(end, _)| (end - LAST) / 60).collect();
        prop_assert_eq!(&found, &expected);
        let values: Option<Vec<_>> = told[0].2[0].2.iter().copied().collect();
        prop_assert_eq!(values, Some(expected));
    }

    #[test]
    fn no_answer_makes_it_panic(
        inside in "(<(returnval|entity|sampleInfoCSV|sampleInfo|timestamp|interval|value|id|counterId)>\
                   |</(returnval|entity|sampleInfo|value|id|counterId)>|402|-?[0-9]{0,20}|[,TZ]){0,20}",
        times in "(20,2027-01-15T08:00:[0-5]0Z,|[0-9,]{0,3}){0,6}",
        values in "(-?[0-9]{1,20},|[0-9,a]{0,3}){0,6}",
    ) {
        let counters = known();
        let _ = samples(answered(&inside).as_bytes(), counters, |_| ());
        let _ = Counters::read(answered(&inside).as_bytes());
        for entity in [csv("v", &times, &[(402, "", &values)]), normal("v", &times, &[(402, "", &values)])] {
            let read = samples(answered(&entity).as_bytes(), counters, |entity| {
                for (_, _, values) in entity.series() {
                    assert_eq!(values.len(), entity.times().len());
                }
                assert!(entity.times().is_sorted_by(|a, b| a.end < b.end));
            });
            prop_assert!(read.is_ok());
        }
    }
}

/// `cargo test --release --no-default-features --features https -- --ignored --nocapture what_a_vm_costs`
#[test]
#[ignore = "a measurement"]
fn what_a_vm_costs() {
    let counters = known();
    for (samples, vms) in [(3, 100), (15, 100), (180, 20)] {
        let mut times = String::new();
        for n in 0..samples {
            let _ =
                write!(times, ",20,2027-01-15T{:02}:{:02}:{:02}Z", n / 180, n / 3 % 60, n % 3 * 20);
        }
        let values = vec!["123456"; samples].join(",");
        // A NIC is told with the aggregate and the host's own.
        let mut series = Vec::new();
        for (counter, instance) in counters.asked() {
            let instances: &[_] = match counter {
                _ if instance.is_empty() => &[""],
                143..=149 | 460 | 461 => &["", "4000", "vmnic0"],
                173 | 174 => &["", "scsi0:0"],
                _ => &["scsi0:0"],
            };
            series.extend(instances.iter().map(|instance| (counter, *instance, values.as_str())));
        }
        for (form, write) in [("csv", csv as fn(&str, &str, &[_]) -> String), ("normal", normal)] {
            let entity = |vm| write(&format!("vm-{vm}"), &times[1..], &series);
            let body = answered(&(0..vms).map(entity).collect::<Vec<_>>().concat());
            let (rounds, mut sum) = (100, 0);
            let begun = Instant::now();
            for _ in 0..rounds {
                super::samples(body.as_bytes(), counters, |entity| {
                    let values = entity.series().flat_map(|(_, _, values)| values.iter().flatten());
                    sum += values.sum::<i64>();
                })
                .unwrap();
            }
            let each = begun.elapsed() / (rounds * vms);
            writeln!(
                std::io::stdout(),
                "{form}, {} series of {samples} samples: {each:?} and {} bytes a VM ({sum})",
                series.len(),
                body.len() / vms as usize
            )
            .unwrap();
        }
    }
}
