//! One YAML file into a tree of nodes that remember where they were written.
//!
//! Plain scalars keep their source text (`yaml11` says what YAML 1.1 would have made of them). Anchors, aliases and
//! `<<` merge keys are resolved here, duplicate keys reported, several documents refused. Work and memory are bounded
//! whatever the text is. Knows nothing of the schema.

use super::finding::{Finding, Findings, Origin, Refusal, Severity, quoted};
use super::yaml11::{self, Reading};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The largest file that is read, in bytes.
pub const MOST_BYTES: usize = 4 << 20;
/// How deep lists and mappings may nest. The schema needs 7.
const MOST_DEPTH: usize = 48;
/// Nodes of one file, every expansion of an alias counted.
const MOST_NODES: usize = 250_000;
/// Bytes of text of one file, every expansion of an alias counted.
const MOST_TEXT: usize = 16 << 20;

const KEY_IS_COLLECTION: &str = "A list or mapping cannot be a key.";
const QUOTE_IT: &str = "Put it in quotes if a text is meant, such as \"[::]:8200\".";

/// Text of a scalar. It may be a secret, so it is wiped when dropped and never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Zeroizing<String>);

impl Text {
    /// The text as written, quotes and escapes resolved.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

/// A scalar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    text: Text,
    /// Neither quoted, nor a block, nor tagged: only then does YAML 1.1 look at the shape of the text.
    plain: bool,
}

impl Scalar {
    /// The text.
    pub fn text(&self) -> &str {
        self.text.as_str()
    }

    /// What YAML 1.1 reads in it.
    pub fn reading(&self) -> Reading {
        if self.plain {
            yaml11::resolve(self.text())
        } else {
            Reading::Text
        }
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text, number, truth value: all kept as text.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A mapping.
    Map(Mapping),
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it starts.
    pub origin: Origin,
}

impl Node {
    /// What it is, in a sentence, with its article.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The mapping, if it is one.
    pub fn as_map(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    fn weight(&self) -> Weight {
        let mut weight = Weight {
            nodes: 1,
            text: 0,
            depth: 1,
        };
        match &self.value {
            Value::Null => {}
            Value::Scalar(scalar) => weight.text = scalar.text().len(),
            Value::List(items) => items
                .iter()
                .for_each(|item| weight.add_child(item.weight())),
            Value::Map(map) => {
                for entry in &map.entries {
                    weight.text += entry.key.len();
                    weight.add_child(entry.value.weight());
                }
            }
        }
        weight
    }
}

#[derive(Clone, Copy)]
struct Weight {
    nodes: usize,
    text: usize,
    depth: usize,
}

impl Weight {
    fn add_child(&mut self, child: Weight) {
        self.nodes += child.nodes;
        self.text += child.text;
        self.depth = self.depth.max(child.depth + 1);
    }
}

/// One key of a mapping with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// Where the key stands.
    pub key_origin: Origin,
    /// The value.
    pub value: Node,
}

/// A mapping in the order of writing; every key occurs once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Mapping {
    /// The entry of a key. Mappings of the schema are small; loops over large ones build an index instead.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }
}

/// Reads a file's text. `Ok(None)`: the file is empty.
///
/// # Errors
/// A fatal finding: not YAML, several documents, or larger or deeper than any configuration needs to be.
pub fn parse(
    text: &str,
    file: &Arc<Path>,
    findings: &mut Findings,
) -> Result<Option<Node>, Refusal> {
    let place = Origin::new(file, 1, 1);
    if text.len() > MOST_BYTES {
        return Err(too_much(
            &place,
            &format!("The file has more than {MOST_BYTES} bytes."),
        ));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        file,
        findings,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        text: 0,
        root: None,
    };
    let mut documents = 0;
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| {
            // What the parser says of a sign that no text may begin with.
            let means = if error.info().starts_with("unexpected character") {
                "Put the text in quotes if it begins here. Nothing of the configuration is used until this is corrected."
            } else {
                "Nothing of the configuration is used until this is corrected."
            };
            fatal(
                &builder.at(error.marker()),
                format!("This is not YAML: {}.", error.info()),
                means,
            )
        })?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(fatal(
                        &builder.at(&span.start),
                        "A second document begins here (`---`).",
                        "One file holds one document; put the second into a file of its own.",
                    ));
                }
            }
            other => builder.take(other, span)?,
        }
    }
    Ok(builder.root.filter(|root| root.value != Value::Null))
}

fn fatal(origin: &Origin, what: impl Into<String>, means: &str) -> Refusal {
    Box::new(Finding::new(Severity::Fatal, origin, "", what, means))
}

fn too_much(origin: &Origin, what: &str) -> Refusal {
    fatal(
        origin,
        what,
        "No configuration needs as much; the file is damaged or not a configuration.",
    )
}

enum Key {
    Named(String, Origin),
    /// `<<`
    Merge(Origin),
}

enum Frame {
    List {
        origin: Origin,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        origin: Origin,
        anchor: usize,
        key: Option<Key>,
        merged: Vec<Entry>,
        own: Vec<Entry>,
    },
}

struct Builder<'a> {
    file: &'a Arc<Path>,
    findings: &'a mut Findings,
    open: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    fn at(&self, mark: &Marker) -> Origin {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Origin::new(
            self.file,
            number(mark.line()).max(1),
            number(mark.col()).saturating_add(1),
        )
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Refusal> {
        let origin = self.at(&span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(text, style, tag, &origin)?;
                self.charge(
                    Weight {
                        nodes: 1,
                        text: node.weight().text,
                        depth: 1,
                    },
                    &origin,
                )?;
                self.finish(node, anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return Err(fatal(
                        &origin,
                        "This alias refers to a value that contains it.",
                        "Write the value out.",
                    ));
                };
                let weight = node.weight();
                self.charge(weight, &origin)?;
                let node = self.anchors.get(&id).cloned();
                node.map_or(Ok(()), |node| self.finish(node, 0))
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag, "seq", &origin)?;
                self.open_collection(
                    Frame::List {
                        origin: origin.clone(),
                        anchor,
                        items: Vec::new(),
                    },
                    &origin,
                )
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag, "map", &origin)?;
                let frame = Frame::Map {
                    origin: origin.clone(),
                    anchor,
                    key: None,
                    merged: Vec::new(),
                    own: Vec::new(),
                };
                self.open_collection(frame, &origin)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Frame::List {
                    origin,
                    anchor,
                    items,
                }) => self.finish(
                    Node {
                        value: Value::List(items),
                        origin,
                    },
                    anchor,
                ),
                Some(Frame::Map {
                    origin,
                    anchor,
                    merged,
                    own,
                    ..
                }) => {
                    let map = self.mapping(merged, own);
                    self.finish(
                        Node {
                            value: Value::Map(map),
                            origin,
                        },
                        anchor,
                    )
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn charge(&mut self, weight: Weight, origin: &Origin) -> Result<(), Refusal> {
        self.nodes += weight.nodes;
        self.text += weight.text;
        if self.nodes > MOST_NODES || self.text > MOST_TEXT {
            return Err(too_much(
                origin,
                "Aliases expanded, the file holds more values than are read.",
            ));
        }
        if self.open.len() + weight.depth > MOST_DEPTH {
            return Err(too_much(
                origin,
                &format!("Lists and mappings nest deeper than {MOST_DEPTH}."),
            ));
        }
        Ok(())
    }

    fn open_collection(&mut self, frame: Frame, origin: &Origin) -> Result<(), Refusal> {
        self.charge(
            Weight {
                nodes: 1,
                text: 0,
                depth: 1,
            },
            origin,
        )?;
        if let Some(Frame::Map { key: None, .. }) = self.open.last() {
            return Err(fatal(origin, KEY_IS_COLLECTION, QUOTE_IT));
        }
        self.open.push(frame);
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<Cow<'_, Tag>>,
        origin: &Origin,
    ) -> Result<Node, Refusal> {
        let text = Text(Zeroizing::new(text.into_owned()));
        let mut plain = style == ScalarStyle::Plain;
        if let Some(tag) = tag {
            match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
                // `!text` alone (the non-specific tag) also means a text.
                (true, "str") => plain = false,
                (true, "null") => {
                    return Ok(Node {
                        value: Value::Null,
                        origin: origin.clone(),
                    });
                }
                (true, "bool" | "int" | "float") => {}
                (false, "" | "!") => plain = false,
                _ => return Err(unknown_tag(&tag, origin)),
            }
        }
        let value = if plain && yaml11::resolve(text.as_str()) == Reading::Null {
            // A key keeps the text it was written with, whatever YAML reads in it.
            match self.open.last() {
                Some(Frame::Map { key: None, .. }) => Value::Scalar(Scalar { text, plain }),
                _ => Value::Null,
            }
        } else {
            Value::Scalar(Scalar { text, plain })
        };
        Ok(Node {
            value,
            origin: origin.clone(),
        })
    }

    fn collection_tag(
        &self,
        tag: Option<Cow<'_, Tag>>,
        expected: &str,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == expected) => {
                Err(unknown_tag(&tag, origin))
            }
            _ => Ok(()),
        }
    }

    /// Puts a complete node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Refusal> {
        if anchor != 0 {
            self.charge(node.weight(), &node.origin)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map {
                key, merged, own, ..
            }) => match key.take() {
                None => *key = Some(as_key(node)?),
                Some(Key::Named(key, key_origin)) => own.push(Entry {
                    key,
                    key_origin,
                    value: node,
                }),
                Some(Key::Merge(origin)) => merge_key(node, &origin, merged)?,
            },
        }
        Ok(())
    }

    /// PyYAML's order: what `<<` brings comes first, own keys override it; among equals the last one wins.
    fn mapping(&mut self, merged: Vec<Entry>, own: Vec<Entry>) -> Mapping {
        let mut entries: Vec<Entry> = Vec::with_capacity(merged.len() + own.len());
        let mut index: HashMap<String, (usize, bool)> = HashMap::new();
        let tagged = merged
            .into_iter()
            .map(|e| (e, false))
            .chain(own.into_iter().map(|e| (e, true)));
        for (entry, is_own) in tagged {
            match index.get(&entry.key) {
                None => {
                    index.insert(entry.key.clone(), (entries.len(), is_own));
                    entries.push(entry);
                }
                Some(&(at, was_own)) => {
                    if is_own && was_own {
                        self.findings.push(Finding::new(
                            Severity::Warning,
                            &entry.key_origin,
                            "",
                            format!(
                                "The key {} was already given at {}.",
                                quoted(&entry.key),
                                entries[at].key_origin
                            ),
                            "The later one is used, the earlier one is ignored.",
                        ));
                    }
                    index.insert(entry.key.clone(), (at, is_own));
                    entries[at] = entry;
                }
            }
        }
        Mapping { entries }
    }
}

fn unknown_tag(tag: &Tag, origin: &Origin) -> Refusal {
    fatal(
        origin,
        format!("The tag {} is not understood.", quoted(&tag.to_string())),
        "Configuration files need no tags; quote the text if it begins with an exclamation mark.",
    )
}

fn as_key(node: Node) -> Result<Key, Refusal> {
    match node.value {
        Value::Scalar(scalar) if scalar.plain && scalar.text() == "<<" => {
            Ok(Key::Merge(node.origin))
        }
        Value::Scalar(scalar) => Ok(Key::Named(scalar.text().to_owned(), node.origin)),
        Value::Null => Ok(Key::Named(String::new(), node.origin)),
        Value::List(_) | Value::Map(_) => Err(fatal(&node.origin, KEY_IS_COLLECTION, QUOTE_IT)),
    }
}

fn merge_key(node: Node, origin: &Origin, merged: &mut Vec<Entry>) -> Result<(), Refusal> {
    let wrong = || {
        fatal(
            origin,
            "`<<` takes a mapping or a list of mappings.",
            "Usually an alias such as `<<: *defaults`.",
        )
    };
    match node.value {
        Value::Map(map) => merged.extend(map.entries),
        Value::List(items) => {
            // Of several the first wins, so it has to come last.
            for item in items.into_iter().rev() {
                match item.value {
                    Value::Map(map) => merged.extend(map.entries),
                    _ => return Err(wrong()),
                }
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}
