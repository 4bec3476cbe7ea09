//! Metrics as the JSON of Vault's `sys/metrics`, which Telegraf and others read. Made from the text form, so that both say the same.

use serde_json::{Map, Value, json};

/// The object: `Counters`, `Gauges`, `Samples` (of histograms count and sum), each with its labels.
pub(crate) fn of(text: &str) -> Value {
    let (mut counters, mut gauges, mut samples) = (Vec::new(), Vec::new(), Vec::<Value>::new());
    let mut kind = "";
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            kind = declared.split(' ').nth(1).unwrap_or_default();
            continue;
        }
        let Some((name, labels, value)) = sample(line) else {
            continue;
        };
        match kind {
            "counter" => counters.push(json!({"Name": name, "Count": value, "Labels": labels})),
            "gauge" => gauges.push(json!({"Name": name, "Value": value, "Labels": labels})),
            "histogram" => {
                if let Some(name) = name.strip_suffix("_sum") {
                    samples.push(json!({"Name": name, "Sum": value, "Labels": labels}));
                } else if let (Some(name), Some(last)) =
                    (name.strip_suffix("_count"), samples.last_mut())
                    && last["Name"] == name
                    && last["Labels"] == Value::Object(labels)
                {
                    last["Count"] = json!(value);
                }
            }
            _ => {}
        }
    }
    json!({"Counters": counters, "Gauges": gauges, "Points": [], "Samples": samples})
}

/// Name, labels and value of a line; `None` for comments and for values that JSON does not have.
fn sample(line: &str) -> Option<(&str, Map<String, Value>, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some((series, Map::new(), value));
    };
    Some((name, labels(rest.strip_suffix('}')?)?, value))
}

fn labels(mut text: &str) -> Option<Map<String, Value>> {
    let mut labels = Map::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), Value::from(value));
        text = rest.get(end + 1..)?;
        text = text.strip_prefix(',').unwrap_or(text);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, histogram};
    use serde_json::json;

    use crate::measures::tests::measured;

    #[test]
    fn counters_gauges_and_histograms_become_json() {
        let object = measured(|_| {
            counter!("a_total", "x" => "1, \"2\"\n", "y" => "").increment(3);
            gauge!("b").set(-1.5);
            gauge!("nan").set(f64::NAN);
            histogram!("c_duration_seconds", "r" => "z").record(2.0);
            histogram!("c_duration_seconds", "r" => "z").record(4.0);
        })
        .json();
        assert_eq!(
            object["Counters"][0],
            json!({"Name": "a_total", "Count": 3.0, "Labels": {"x": "1, \"2\"\n", "y": ""}})
        );
        let gauges = object["Gauges"].as_array().unwrap();
        assert!(
            gauges.contains(&json!({"Name": "b", "Value": -1.5, "Labels": {}})),
            "{gauges:?}"
        );
        assert!(!gauges.iter().any(|gauge| gauge["Name"] == "nan"));
        assert_eq!(
            object["Samples"],
            json!([{"Name": "c_duration_seconds", "Sum": 6.0, "Count": 2.0, "Labels": {"r": "z"}}])
        );
    }
}
