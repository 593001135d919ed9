//! Tests of chat templates: where they are found, what they may use, and what they are stopped at.

use super::*;
use serde_json::json;

fn messages(texts: &[(&str, &str)]) -> Vec<Message> {
    let message = |(role, content): &(&str, &str)| Message { role: role.to_string(), content: content.to_string() };
    texts.iter().map(message).collect()
}

fn template(source: &str) -> ChatTemplate {
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.into(), token.into()));
    ChatTemplate::new(source.to_string(), &special).unwrap()
}

fn render(source: &str) -> Result<String, String> {
    let talk = messages(&[("user", " Hi <b>\n"), ("assistant", "Ho")]);
    template(source).render(&talk, true).map_err(|error| error.to_string())
}

#[test]
fn blocks_are_trimmed_and_special_tokens_printed() {
    let source = "{{ bos_token }}\n  {% for message in messages %}\n[{{ message['role'] }}] {{ message.content.strip() }}{{ eos_token }}\n  \
        {% endfor %}\n{% if add_generation_prompt %}\n[assistant]\n{%- endif %}\n";
    assert_eq!(render(source).unwrap(), "<s>\n[user] Hi <b></s>\n[assistant] Ho</s>\n[assistant]");
}

#[test]
fn what_transformers_offers_is_there() {
    for (source, printed) in [
        ("{{ messages[0] | tojson }}", "{\"role\": \"user\", \"content\": \" Hi <b>\\n\"}"),
        ("{{ [1, 'é'] | tojson(indent=2) }}", "[\n  1,\n  \"é\"\n]"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% generation %}a{% endgeneration %}{%- generation -%} b {%- endgeneration %}", "ab"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{{ messages[-1].content.split('o')[0] + messages[1:][0]['role'].upper() }}", "HASSISTANT"),
        ("{{ tools is none }}{{ x is defined }}{{ none }}", "TrueFalseNone"),
        ("{{ x }}{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f('&') }}", "<&>"),
    ] {
        assert_eq!(render(source).unwrap(), printed, "{source}");
    }
}

#[test]
fn another_moment_can_be_set() {
    let dated = template("{{ strftime_now('%Y-%m-%d') }}").at(0);
    assert_eq!(dated.render(&[], false).unwrap(), "1970-01-01");
}

#[test]
fn a_template_s_own_refusal_is_the_error() {
    let error = render("{{ raise_exception('only\nthree roles') }}").unwrap_err();
    assert!(error.contains("cannot print this conversation: only three roles (line 1"), "{error}");
    let error = render("{{ messages[0].content.nothing() }}").unwrap_err();
    assert!(error.contains("cannot print"), "{error}");
    assert!(render("{{ missing.key }}").is_err());
    assert!(render("{% include 'x' %}").is_err());
    assert!(render("{{ strftime_now('%Q') }}").is_err());
}

#[test]
fn hostile_templates_are_stopped() {
    let nothing = |source: &str| ChatTemplate::new(source.to_string(), &[]);
    for source in ["{% for %}", "{{ 'a", "{% if x %}", "{{ \u{0} }}", "{% unknown %}"] {
        assert!(matches!(nothing(source), Err(ChatError::Syntax { .. })), "{source}");
    }
    assert!(nothing(&"{{ (".repeat(100_000)).is_err());
    assert!(nothing(&format!("{{{{ {}1 }}}}", "[".repeat(100_000))).is_err());
    for source in [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a' * 9000000000 }}",
        "{{ [1] * 9000000000 }}",
        "{{ 1 / 0 }}",
        "{{ range(9000000000) | list }}",
    ] {
        assert!(render(source).is_err(), "{source}");
    }
}

#[test]
fn the_template_is_found_in_either_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = || ChatTemplate::from_folder(folder.path());
    assert!(matches!(load(), Err(ChatError::Missing { .. })));
    write("special_tokens_map.json", &json!({"bos_token": "x", "eos_token": {"content": "E"}}).to_string());
    write("tokenizer_config.json", &json!({"bos_token": "B", "chat_template": "{{ bos_token }}one"}).to_string());
    assert_eq!(load().unwrap().render(&[], false).unwrap(), "Bone");
    let list = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "two{{ eos_token }}"}]);
    write("tokenizer_config.json", &json!({"chat_template": list}).to_string());
    assert_eq!(load().unwrap().render(&[], false).unwrap(), "twoE");
    write("tokenizer_config.json", &json!({"chat_template": [{"name": "rag", "template": "t"}]}).to_string());
    assert!(load().unwrap_err().to_string().contains("one named default"));
    write("tokenizer_config.json", &json!({"chat_template": null}).to_string());
    write("chat_template.jinja", "three\n");
    assert_eq!((load().unwrap().render(&[], false).unwrap().as_str(), load().unwrap().source()), ("three", "three\n"));
    write("tokenizer_config.json", "[1]");
    assert!(matches!(load(), Err(ChatError::Malformed { .. })));
}
