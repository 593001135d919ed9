//! Keys that this program reads only to be sure that they say what it does anyway.

use serde_json::Value;

use super::Section;

impl Section {
    /// Accepts `key` when it is absent, null or equal to `harmless`; any other value is a problem, because the program would silently do something else.
    /// A boolean `false`, an empty list and an empty object count as absent.
    pub fn only(&mut self, key: &str, harmless: &[Value]) {
        let Some(value) = self.value(key) else { return };
        let empty = match &value {
            Value::Bool(flag) => !flag,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let equal = |a: &Value| a == &value || a.as_f64().is_some_and(|a| value.as_f64() == Some(a));
        if empty || harmless.iter().any(equal) {
            return;
        }
        let known: Vec<String> = harmless.iter().map(Value::to_string).collect();
        let known = if known.is_empty() { String::new() } else { format!(" other than {}", known.join(" or ")) };
        self.problem(key, format!("{value} is not supported: this program handles no `{key}`{known}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::{Problems, Section};

    #[test]
    fn only_harmless_values_pass() {
        let problems = Problems::new();
        let map = json!({ "a": false, "b": 1.0, "c": "silu", "d": "gelu", "e": [], "f": true });
        let map = map.as_object().cloned().unwrap_or(Map::new());
        let mut section = Section::new("", map, &problems);
        section.only("a", &[]);
        section.only("b", &[json!(1)]);
        section.only("c", &[json!("silu")]);
        section.only("d", &[json!("silu")]);
        section.only("e", &[]);
        section.only("f", &[]);
        section.only("absent", &[]);
        section.finish();
        let paths: Vec<String> = problems.to_vec().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["d", "f"]);
    }
}
