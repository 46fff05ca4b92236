//! Reads the two answers of `xcp-rrdd` that hold what VMs use, as streams: `/rrd_updates`, rows of
//! averages of all sources of a host, and the head of `/vm_rrd`, where every source tells its last raw
//! counter. Pure; whatever comes in, what comes out is a record or an [`Unreadable`].
//!
//! Formats: ocaml/libs/xapi-rrd/lib/rrd_updates.ml and rrd.ml of xapi-project/xen-api. The XML is the
//! same in all releases, unlike the JSON.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event;
use uuid::Uuid;

/// The whole of an answer.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The longest archive has 366; the one of 5 s has 120.
const MAX_ROWS: usize = 400;
/// A host with 1,000 VMs has 50,000.
const MAX_COLUMNS: usize = 200_000;
/// The bytes of a column in an answer: those of its owner's UUID, and more.
const SHORTEST: usize = 36;
/// Sources of one VM. One with 32 vCPUs and all devices has 700.
const MAX_SOURCES: usize = 20_000;
/// The deepest element that XAPI writes is the fifth.
const MAX_DEPTH: usize = 16;
/// A name, or a number.
const MAX_TEXT: usize = 1024;
/// In the year 2242, in seconds; in nanoseconds, 64 bits hold it as well.
const LATEST: i64 = 1 << 33;
/// Where the archives of `/vm_rrd` begin. Nothing after it is of use, and it is most of the answer.
pub(crate) const ARCHIVES: &[u8] = b"<rra>";
/// Ten digits after the point: more than any release prints of a counter of seconds.
const NANO_DIGITS: i32 = 9;
/// 10^25 s or bytes, more than was ever counted; its nanos fit.
const MAX_MAGNITUDE: i32 = 25;

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the host's answer about its RRDs cannot be read: {0}")]
pub(crate) struct Unreadable(Cow<'static, str>);

type Result<T> = std::result::Result<T, Unreadable>;

/// Whether a consolidated value is the mean of its row, or an extreme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consolidation {
    Average,
    Min,
    Max,
    Last,
}

/// Whose source a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Vm(Uuid),
    Host(Uuid),
    Storage(Uuid),
}

/// What a column holds, for example `AVERAGE:vm:<uuid>:vif_0_rx`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column<'a> {
    pub(crate) consolidation: Consolidation,
    pub(crate) owner: Owner,
    pub(crate) name: Cow<'a, str>,
}

/// What `/rrd_updates` says before its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// As the host says; may be one step after the oldest row.
    pub(crate) start: i64,
    /// How long each row is, in seconds.
    pub(crate) step: u32,
    /// The newest row that there can be, by the host's own clock: also where there are no rows.
    pub(crate) end: i64,
    /// What the values of each row are; `None` for one that is none of those known here.
    pub(crate) columns: Vec<Option<Column<'a>>>,
}

/// An answer to `/rrd_updates`, row by row.
pub(crate) struct Updates<'a> {
    xml: Xml<'a>,
    step: i64,
    columns: usize,
    rows: usize,
    /// The row before the next, which is older.
    last: Option<i64>,
    /// Where the `<data>` was entered and not left yet.
    in_data: bool,
}

/// A source of `/vm_rrd`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) kind: SourceKind,
    /// `None` where it is unknown, as after a start of `xcp-rrdd`.
    pub(crate) last: Option<Exact>,
    /// What was added up within the row that is not complete yet.
    pub(crate) value: f64,
    /// So much of that row is unknown.
    pub(crate) unknown_sec: f64,
    /// After so many seconds without a reading it is unknown.
    pub(crate) minimal_heartbeat: f64,
}

/// What the raw readings of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    Gauge,
    /// Of something that was counted since the last reading.
    Absolute,
    /// Of a counter.
    Derive,
}

/// A number just as it was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exact {
    /// In 10^-9; further digits are cut.
    pub(crate) nanos: i128,
    /// One unit of the last digit that was printed, in 10^-9; 1 where there are more digits than that.
    pub(crate) resolution: i128,
}

/// The head of an answer to `/vm_rrd`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VmRrd<'a> {
    /// In seconds.
    pub(crate) step: u32,
    /// When the sources were last read, by the host's clock; a release may print it with too few digits
    /// (24.40 to 25.2: `1.76e+09`), then it is `None`.
    pub(crate) last_update: Option<Exact>,
    pub(crate) sources: Vec<Source<'a>>,
}

impl<'a> Updates<'a> {
    /// Reads what is said before the rows.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn read(answer: &'a [u8]) -> Result<(Head<'a>, Self)> {
        let mut xml = Xml::new(answer)?;
        xml.enter_root("xport")?;
        xml.enter("meta")?;
        let (mut start, mut step, mut end, mut columns) = (None, None, None, None);
        // Room for all columns at once: many answers are read at a time, and what grows holds twice as much.
        let mut room = 0;
        while let Some(name) = xml.child()? {
            match name.as_ref() {
                b"start" => start = Some(xml.integer("start")?),
                b"step" => step = Some(xml.step()?),
                b"end" => end = Some(xml.integer("end")?),
                b"columns" => room = xml.text()?.trim().parse().unwrap_or(0),
                b"legend" => {
                    let room = room.min(answer.len() / SHORTEST).min(MAX_COLUMNS);
                    columns = Some(legend(&mut xml, room)?);
                }
                _ => xml.skip()?,
            }
        }
        let missing = |what| move || Unreadable::of(format!("it has no <{what}>"));
        let head = Head {
            start: start.ok_or_else(missing("start"))?,
            step: step.ok_or_else(missing("step"))?,
            end: end.ok_or_else(missing("end"))?,
            columns: columns.ok_or_else(missing("legend"))?,
        };
        let (step, columns) = (i64::from(head.step), head.columns.len());
        Ok((head, Self { xml, step, columns, rows: 0, last: None, in_data: false }))
    }

    /// The next row, each older than the one before: its values go there, in place of those of the last
    /// one, and the time of its end comes back; `None` after the oldest.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn next_row(&mut self, values: &mut Vec<f64>) -> Result<Option<i64>> {
        values.clear();
        while !self.in_data {
            match self.xml.child()? {
                None => return Ok(None),
                Some(name) if name.as_ref() == b"data" => self.in_data = true,
                Some(_) => self.xml.skip()?,
            }
        }
        let Some(name) = self.xml.child()? else {
            self.in_data = false;
            // What follows must still be well-formed: else the answer was cut.
            while self.xml.child()?.is_some() {
                self.xml.skip()?;
            }
            return Ok(None);
        };
        if name.as_ref() != b"row" {
            return Err(Unreadable::of("there is something else than a <row> in its <data>"));
        }
        self.rows += 1;
        within("the number of its rows", self.rows, MAX_ROWS)?;
        let mut t = None;
        while let Some(name) = self.xml.child()? {
            match name.as_ref() {
                b"t" => t = Some(self.xml.integer("t")?),
                b"v" if values.len() < self.columns => values.push(self.xml.float("v")?),
                // Releases before 2020 could leave out names of the legend, anywhere.
                b"v" => {
                    return Err(Unreadable::of("a row has more values than the legend has names"));
                }
                _ => self.xml.skip()?,
            }
        }
        let t = t.ok_or_else(|| Unreadable::of("a row has no <t>"))?;
        if values.len() != self.columns {
            return Err(Unreadable::of("a row has fewer values than the legend has names"));
        }
        if self.last.is_some_and(|last| t > last - self.step) {
            return Err(Unreadable::of("its rows overlap, or are not from new to old"));
        }
        self.last = Some(t);
        Ok(Some(t))
    }
}

impl<'a> VmRrd<'a> {
    /// Reads all that is before the archives; what comes after may be missing.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn read(answer: &'a [u8]) -> Result<Self> {
        let mut xml = Xml::new(answer)?;
        xml.enter_root("rrd")?;
        let (mut step, mut last_update, mut sources) = (None, None, Vec::new());
        while let Some(name) = xml.child()? {
            match name.as_ref() {
                b"step" => step = Some(xml.step()?),
                b"lastupdate" => last_update = plausible(&xml.text()?),
                b"ds" => {
                    within("the number of its sources", sources.len() + 1, MAX_SOURCES)?;
                    sources.push(source(&mut xml)?);
                }
                b"rra" => break,
                _ => xml.skip()?,
            }
        }
        let step = step.ok_or_else(|| Unreadable::of("it has no <step>"))?;
        Ok(Self { step, last_update, sources })
    }
}

impl Exact {
    /// Reads `7443.1317`, `15036394186` or `1.76e+09`; `None` for what is no finite number.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let (text, exponent) = match text.split_once(['e', 'E']) {
            Some((text, exponent)) => (text, exponent.parse::<i16>().ok()?.into()),
            None => (text, 0),
        };
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let all = || whole.bytes().chain(decimals.bytes());
        if all().next().is_none() || !all().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        // The power of ten, in nanos, of the digit that comes next.
        let mut power = exponent + NANO_DIGITS + i32::try_from(whole.len()).ok()? - 1;
        let (mut nanos, mut is_leading) = (0_i128, true);
        for digit in all() {
            is_leading &= digit == b'0';
            if !is_leading && power > MAX_MAGNITUDE + NANO_DIGITS {
                return None;
            }
            if !is_leading && power >= 0 {
                nanos += i128::from(digit - b'0') * 10_i128.pow(power.unsigned_abs());
            }
            power -= 1;
        }
        let last = (power + 1).clamp(0, MAX_MAGNITUDE + NANO_DIGITS);
        let resolution = 10_i128.pow(last.unsigned_abs());
        Some(Self { nanos: if is_negative { -nanos } else { nanos }, resolution })
    }
}

impl Unreadable {
    pub(crate) fn of(why: impl Into<Cow<'static, str>>) -> Self {
        Self(why.into())
    }
}

fn within(what: &str, found: usize, limit: usize) -> Result<()> {
    let refusal = || Unreadable::of(format!("{what} is {found} or more, and {limit} is the limit"));
    if found <= limit { Ok(()) } else { Err(refusal()) }
}

fn legend<'a>(xml: &mut Xml<'a>, room: usize) -> Result<Vec<Option<Column<'a>>>> {
    let mut columns = Vec::with_capacity(room);
    while let Some(name) = xml.child()? {
        if name.as_ref() != b"entry" {
            return Err(Unreadable::of("there is something else than an <entry> in its <legend>"));
        }
        within("the number of its columns", columns.len() + 1, MAX_COLUMNS)?;
        columns.push(column(xml.text()?));
    }
    Ok(columns)
}

/// A name may hold anything, also colons.
fn column(entry: Cow<'_, str>) -> Option<Column<'_>> {
    let mut parts = entry.splitn(4, ':');
    let (consolidation, owner) = (parts.next()?, parts.next()?);
    let uuid = Uuid::try_parse(parts.next()?).ok()?;
    let begin = entry.len() - parts.next()?.len();
    let consolidation = match consolidation {
        "AVERAGE" => Consolidation::Average,
        "MIN" => Consolidation::Min,
        "MAX" => Consolidation::Max,
        "LAST" => Consolidation::Last,
        _ => return None,
    };
    let owner = match owner {
        "vm" => Owner::Vm(uuid),
        "host" => Owner::Host(uuid),
        "sr" => Owner::Storage(uuid),
        _ => return None,
    };
    let name = match entry {
        Cow::Borrowed(entry) => Cow::Borrowed(&entry[begin..]),
        Cow::Owned(entry) => Cow::Owned(entry[begin..].to_owned()),
    };
    Some(Column { consolidation, owner, name })
}

/// To the second at least, and after 2001, but not too far.
fn plausible(text: &str) -> Option<Exact> {
    const SECOND: i128 = 10_i128.pow(9);
    const IN_2001: i128 = SECOND * SECOND;
    let possible = IN_2001..i128::from(LATEST) * SECOND;
    Exact::read(text).filter(|time| time.resolution <= SECOND && possible.contains(&time.nanos))
}

fn source<'a>(xml: &mut Xml<'a>) -> Result<Source<'a>> {
    let (mut name, mut kind, mut last) = (None, None, None);
    let (mut value, mut unknown_sec, mut minimal_heartbeat) = (f64::NAN, f64::NAN, f64::NAN);
    while let Some(child) = xml.child()? {
        match child.as_ref() {
            b"name" => name = Some(xml.text()?),
            b"type" => {
                kind = match xml.text()?.as_ref() {
                    "GAUGE" => Some(SourceKind::Gauge),
                    "ABSOLUTE" => Some(SourceKind::Absolute),
                    "DERIVE" => Some(SourceKind::Derive),
                    _ => None,
                }
            }
            b"last_ds" => last = Exact::read(&xml.text()?),
            b"value" => value = xml.float("value")?,
            b"unknown_sec" => unknown_sec = xml.float("unknown_sec")?,
            b"minimal_heartbeat" => minimal_heartbeat = xml.float("minimal_heartbeat")?,
            _ => xml.skip()?,
        }
    }
    match (name, kind) {
        (Some(name), Some(kind)) => {
            Ok(Source { name, kind, last, value, unknown_sec, minimal_heartbeat })
        }
        (None, _) => Err(Unreadable::of("a source has no <name>")),
        (_, None) => Err(Unreadable::of("a source has none of the types that are known")),
    }
}

/// Walks through elements. The reader sees to it that each is closed by its own name.
struct Xml<'a> {
    reader: Reader<&'a [u8]>,
    depth: usize,
}

/// The name of an element.
type Name<'a> = quick_xml::events::BytesStart<'a>;

impl<'a> Xml<'a> {
    fn new(answer: &'a [u8]) -> Result<Self> {
        within("its length in bytes", answer.len(), MAX_BYTES)?;
        let mut reader = Reader::from_reader(answer);
        reader.config_mut().expand_empty_elements = true;
        Ok(Self { reader, depth: 0 })
    }

    fn event(&mut self) -> Result<Event<'a>> {
        match self.reader.read_event() {
            Ok(Event::DocType(_)) => Err(Unreadable::of("it has a DTD, which XAPI never writes")),
            Ok(Event::Eof) => Err(Unreadable::of("it ends too early")),
            Ok(event) => Ok(event),
            Err(error) => {
                let error: String = error.to_string().chars().take(200).collect();
                Err(Unreadable::of(format!("it is no well-formed XML: {error:?}")))
            }
        }
    }

    /// Enters the next child of the element that it is in, or leaves that. Text around is passed over.
    fn child(&mut self) -> Result<Option<Name<'a>>> {
        loop {
            match self.event()? {
                Event::Start(start) => {
                    self.depth += 1;
                    within("the depth of its elements", self.depth, MAX_DEPTH)?;
                    return Ok(Some(start));
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(None);
                }
                _ => {}
            }
        }
    }

    fn enter(&mut self, name: &str) -> Result<()> {
        let found = self.child()?;
        if found.is_some_and(|found| found.name().as_ref() == name.as_bytes()) {
            return Ok(());
        }
        Err(Unreadable::of(format!("it does not begin with <{name}>")))
    }

    /// What is no XML at all has neither element nor end.
    fn enter_root(&mut self, name: &str) -> Result<()> {
        let refusal = |_| Unreadable::of(format!("it is no XML with the element <{name}>"));
        self.enter(name).map_err(refusal)
    }

    /// Leaves the element that it is in.
    fn skip(&mut self) -> Result<()> {
        let outside = self.depth.saturating_sub(1);
        while self.depth > outside {
            self.child()?;
        }
        Ok(())
    }

    /// The text of the element that it is in, which has no others in it, and leaves that.
    fn text(&mut self) -> Result<Cow<'a, str>> {
        let mut text = Cow::Borrowed("");
        loop {
            match self.event()? {
                Event::Text(piece) => append(&mut text, utf8(piece.into_inner())?)?,
                Event::CData(piece) => append(&mut text, utf8(piece.into_inner())?)?,
                Event::GeneralRef(reference) => {
                    let no_character = || Unreadable::of("it refers to what is no character");
                    let character = match reference.as_ref() {
                        b"amp" => '&',
                        b"lt" => '<',
                        b"gt" => '>',
                        b"quot" => '"',
                        b"apos" => '\'',
                        _ => {
                            reference.resolve_char_ref().ok().flatten().ok_or_else(no_character)?
                        }
                    };
                    append(&mut text, Cow::Owned(character.to_string()))?;
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(text);
                }
                Event::Start(_) => return Err(Unreadable::of("there is an element within a text")),
                _ => {}
            }
        }
    }

    fn integer(&mut self, name: &str) -> Result<i64> {
        let text = self.text()?;
        let number = text.trim().parse().ok().filter(|number: &i64| number.abs() < LATEST);
        number.ok_or_else(|| no_number(name, &text))
    }

    fn step(&mut self) -> Result<u32> {
        let step = self.integer("step")?;
        let step = u32::try_from(step).ok().filter(|step| (1..=366 * 86_400).contains(step));
        step.ok_or_else(|| Unreadable::of("its <step> is no usable length of a row"))
    }

    fn float(&mut self, name: &str) -> Result<f64> {
        let text = self.text()?;
        text.trim().parse().map_err(|_| no_number(name, &text))
    }
}

fn no_number(name: &str, text: &str) -> Unreadable {
    let text: String = text.chars().take(40).collect();
    Unreadable::of(format!("its <{name}> is {text:?}, which is no usable number"))
}

fn utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>> {
    let refusal = || Unreadable::of("it is not in UTF-8");
    match bytes {
        Cow::Borrowed(bytes) => {
            std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| refusal())
        }
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| refusal()),
    }
}

fn append<'a>(text: &mut Cow<'a, str>, piece: Cow<'a, str>) -> Result<()> {
    within("the length of a text", text.len() + piece.len(), MAX_TEXT)?;
    if text.is_empty() {
        *text = piece;
    } else {
        text.to_mut().push_str(&piece);
    }
    Ok(())
}

#[cfg(test)]
#[path = "rrd_tests.rs"]
mod tests;
