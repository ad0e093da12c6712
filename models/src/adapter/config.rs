//! `adapter_config.json`: rank and scale of each matrix, and what of PEFT's ways we do not compute.

use serde_json::{Map, Value};

use crate::{adapter::ADAPTER_CONFIG_FILE, config::Fields, error::ConfigError, shown::escape};

/// Fields that ask for something else than `B A` on top of matrices that stay as they are, where they are there and not
/// false or empty.
const REFUSED: &[(&str, &str)] = &[
    ("use_dora", "false: the norms of weights (DoRA) are not computed"),
    ("use_qalora", "false: pooled activations (QA-LoRA) are not computed"),
    ("lora_bias", "false: biases of adapters are not computed"),
    ("fan_in_fan_out", "false: transposed weights are not computed"),
    ("modules_to_save", "empty: layers that were trained whole belong into a model of their own"),
    ("layer_replication", "empty: layers are those of the model"),
    ("trainable_token_indices", "empty: embeddings are not adapted"),
    (
        "target_parameters",
        "empty: parameters that are no layers, such as stacks of experts, are not adapted",
    ),
    ("alora_invocation_tokens", "empty: an adapter holds for the whole prompt"),
    ("arrow_config", "empty: adapters are chosen by requests"),
    ("use_bdlora", "empty: matrices in diagonal blocks (BD-LoRA) are not computed"),
    ("kasa_config", "empty: KaSA is not computed"),
    ("monteclora_config", "empty: MonteCLoRA is not computed"),
    ("velora_config", "empty: VeLoRA is not computed"),
];

/// Ways to begin a training that leave the model's own weights as they are.
const PLAIN_BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// How large the matrices of an adapter are, and how much they count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdapterConfig {
    /// As its maker wrote it.
    pub(crate) base_model: Option<String>,
    /// Unless a pattern says otherwise.
    pub(crate) rank: usize,
    /// Unless a pattern says otherwise.
    alpha: f64,
    /// Whether the scale is alpha by the root of the rank.
    has_root_scale: bool,
    ranks: Pattern<usize>,
    alphas: Pattern<f64>,
}

/// Numbers by the ends of modules' names.
#[derive(Clone, Debug, PartialEq)]
struct Pattern<T> {
    field: &'static str,
    ends: Vec<(String, T)>,
}

impl AdapterConfig {
    /// Reads the file's text.
    pub(crate) fn from_json(text: &[u8]) -> Result<Self, ConfigError> {
        let map: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|source| ConfigError::Json { file: ADAPTER_CONFIG_FILE.to_owned(), source })?;
        let fields = Fields::new(ADAPTER_CONFIG_FILE, &map);
        check_way(&fields)?;
        let rank = fields.count("r")?;
        if rank == 0 {
            return Err(fields.invalid("r", "at least 1", &Value::from(0)));
        }
        Ok(Self {
            base_model: fields
                .value("base_model_name_or_path")
                .and_then(Value::as_str)
                .map(ToOwned::to_owned),
            rank,
            alpha: fields.number("lora_alpha")?,
            has_root_scale: fields.optional_flag("use_rslora")?.unwrap_or(false),
            ranks: Pattern::read(&fields, "rank_pattern", "a whole number above 0", |value| {
                value.as_u64().filter(|rank| *rank > 0).and_then(|rank| usize::try_from(rank).ok())
            })?,
            alphas: Pattern::read(&fields, "alpha_pattern", "a number above 0", |value| {
                value.as_f64().filter(|alpha| *alpha > 0.0)
            })?,
        })
    }

    /// Returns the rank of a module's matrices.
    pub(crate) fn rank_of(&self, module: &str) -> usize {
        self.ranks.find(module).unwrap_or(self.rank)
    }

    /// Returns the factor on what a module's matrices come to.
    pub(crate) fn scale_of(&self, module: &str) -> f64 {
        let (rank, alpha) = (self.rank_of(module) as f64, self.alphas.find(module));
        alpha.unwrap_or(self.alpha) / if self.has_root_scale { rank.sqrt() } else { rank }
    }

    /// Refuses patterns that say different numbers of a module: which of them the training took, the file does not tell.
    pub(crate) fn check(&self, module: &str) -> Result<(), ConfigError> {
        self.ranks.check(module)?;
        self.alphas.check(module)
    }
}

fn check_way(fields: &Fields<'_>) -> Result<(), ConfigError> {
    match fields.value("peft_type") {
        Some(value) if value != "LORA" => return Err(fields.invalid("peft_type", "LORA", value)),
        None => return Err(fields.missing("peft_type")),
        Some(_) => {}
    }
    for (field, rule) in REFUSED {
        let is_said = |value: &&Value| match value {
            Value::Bool(said) => *said,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        if let Some(value) = fields.value(field).filter(is_said) {
            return Err(fields.invalid(field, rule, value));
        }
    }
    if let Some(value) = fields.value("bias").filter(|value| *value != "none") {
        return Err(fields.invalid("bias", "none: biases of adapters are not computed", value));
    }
    match fields.value("init_lora_weights") {
        Some(value) if value.as_str().is_some_and(|way| !PLAIN_BEGINNINGS.contains(&way)) => {
            let rule = "a way that leaves the model's own weights as they are (true, false, gaussian, eva, orthogonal); PEFT can convert the adapter when it saves it";
            Err(fields.invalid("init_lora_weights", rule, value))
        }
        _ => Ok(()),
    }
}

impl<T: Copy + PartialEq + std::fmt::Display> Pattern<T> {
    fn read(
        fields: &Fields<'_>,
        field: &'static str,
        rule: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Self, ConfigError> {
        let mut ends = Vec::new();
        if let Some(fields) = fields.optional_object(field)? {
            for (name, value) in fields.entries() {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if !name.chars().all(is_plain) {
                    let rule = "by the ends of modules' names; expressions are not read";
                    return Err(fields.invalid(&escape(name), rule, value));
                }
                let number = convert(value).ok_or_else(|| fields.invalid(name, rule, value))?;
                ends.push((name.to_owned(), number));
            }
        }
        Ok(Self { field, ends })
    }

    /// Returns the numbers that are said of a module, by its name or the end of it.
    fn fitting(&self, module: &str) -> impl Iterator<Item = T> {
        let is_end = move |end: &str| {
            let rest = module.strip_suffix(end);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.ends.iter().filter(move |(end, _)| is_end(end)).map(|(_, number)| *number)
    }

    fn find(&self, module: &str) -> Option<T> {
        self.fitting(module).next()
    }

    fn check(&self, module: &str) -> Result<(), ConfigError> {
        let first = self.find(module);
        match self.fitting(module).find(|number| Some(*number) != first) {
            None => Ok(()),
            Some(other) => Err(ConfigError::Invalid {
                file: ADAPTER_CONFIG_FILE.to_owned(),
                field: self.field.to_owned(),
                rule: format!("of one number for {module}, which several of its names fit"),
                value: other.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#""peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "use_dora": false,
        "modules_to_save": null, "target_modules": ["q_proj"], "init_lora_weights": true"#;

    fn read(more: &str) -> Result<AdapterConfig, String> {
        let text = format!("{{{PLAIN}{more}}}");
        AdapterConfig::from_json(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn scales_are_alpha_by_rank_or_by_its_root_and_patterns_go_before() {
        let module = "model.layers.1.self_attn.q_proj";
        let rows = [
            ("", 8, 2.0),
            (r#", "use_rslora": true"#, 8, 16.0 / 8.0_f64.sqrt()),
            (r#", "rank_pattern": {"q_proj": 4}"#, 4, 4.0),
            (r#", "rank_pattern": {"proj": 4, "v_proj": 2}"#, 8, 2.0),
            (r#", "rank_pattern": {"q_proj": 4, "layers.2.self_attn.q_proj": 2}"#, 4, 4.0),
            (r#", "alpha_pattern": {"model.layers.1.self_attn.q_proj": 4.0}"#, 8, 0.5),
        ];
        for (more, rank, scale) in rows {
            let config = read(more).unwrap();
            assert_eq!((config.rank_of(module), config.scale_of(module)), (rank, scale), "{more}");
        }
        assert_eq!(read("").unwrap().base_model, None);
        let named = read(r#", "base_model_name_or_path": "acme/coder""#).unwrap();
        assert_eq!(named.base_model.as_deref(), Some("acme/coder"));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_its_field() {
        for (more, rule) in [
            (r#", "peft_type": "IA3""#, "`peft_type` must be LORA, got \"IA3\""),
            (r#", "use_dora": true"#, "`use_dora` must be false"),
            (r#", "lora_bias": true"#, "`lora_bias` must be false"),
            (r#", "bias": "all""#, "`bias` must be none"),
            (r#", "modules_to_save": ["lm_head"]"#, "`modules_to_save` must be empty"),
            (r#", "target_parameters": ["experts.down_proj"]"#, "`target_parameters` must be"),
            (r#", "trainable_token_indices": {"embed_tokens": [1]}"#, "`trainable_token_indices`"),
            (r#", "init_lora_weights": "pissa""#, "`init_lora_weights` must be a way"),
            (
                r#", "rank_pattern": {"q_proj|v_proj": 4}"#,
                "`rank_pattern.q_proj|v_proj` must be by",
            ),
            (r#", "rank_pattern": {"q_proj": 0}"#, "`rank_pattern.q_proj` must be a whole number"),
            (
                r#", "rank_pattern": {"q_proj": 0.5}"#,
                "`rank_pattern.q_proj` must be a whole number",
            ),
            (
                r#", "alpha_pattern": {"q_proj": -1}"#,
                "`alpha_pattern.q_proj` must be a number above",
            ),
            (r#", "rank_pattern": {"\u001b[2J": 4}"#, "`rank_pattern.\\u{1b}[2J` must be by"),
            (r#", "r": 0"#, "`r` must be at least 1, got 0"),
        ] {
            let error = read(more).unwrap_err();
            assert!(error.contains(rule) && error.starts_with("adapter_config.json"), "{error}");
        }
        let module = "model.layers.1.self_attn.q_proj";
        let two = r#", "alpha_pattern": {"q_proj": 4, "layers.1.self_attn.q_proj": 2}"#;
        let error = read(two).unwrap().check(module).unwrap_err().to_string();
        assert!(
            error.contains("`alpha_pattern` must be of one number for model.layers.1"),
            "{error}"
        );
        assert!(read(&two.replace('2', "4")).unwrap().check(module).is_ok());
        for missing in ["peft_type", "r", "lora_alpha"] {
            let mut map: Map<String, Value> =
                serde_json::from_str(&format!("{{{PLAIN}}}")).unwrap();
            map.remove(missing);
            let error = AdapterConfig::from_json(Value::from(map).to_string().as_bytes());
            let error = error.unwrap_err().to_string();
            assert_eq!(error, format!("adapter_config.json: `{missing}` is missing"));
        }
    }
}
