//! Adapters against PEFT: alone, together in one batch, on several ranks and on a GPU; and those that do not fit.
//!
//! `tests/golden/make_adapters.py` makes them and says with which versions.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use models::{
    Adapter, AdapterFootprint, DecoderSpec, Device, LoadOptions, ModelError, NO_ADAPTER, Source,
    adapter_footprint, load, load_weights, rank_spec, read_spec, weights::Weights,
};
#[cfg(feature = "cuda-emulator")]
use models::{GraphMode, KvDType};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

#[cfg(feature = "cuda-emulator")]
use crate::architectures::GPU_LIMIT;
use crate::{
    architectures::{Case, Probe, cases, check_greedy, check_logits},
    gguf_families,
    support::{DEVICES, Folder, Runner, Sequence, options},
};

#[derive(Debug, Deserialize)]
struct Golden {
    cases: Vec<AdaptedCase>,
}

#[derive(Debug, Deserialize)]
struct AdaptedCase {
    name: String,
    adapters: Vec<Trained>,
}

#[derive(Debug, Deserialize)]
struct Trained {
    folder: String,
    prompts: Vec<Probe>,
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/adapters").join(name)
}

/// Returns the architecture's cases with their adapters.
fn adapted_cases() -> Vec<(Case, Vec<Trained>)> {
    let text = fs::read(golden("cases.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&text).unwrap();
    let mut architectures = cases();
    let with_base = golden.cases.into_iter().map(|case| {
        let base = architectures.iter().position(|base| base.name == case.name).unwrap();
        (architectures.swap_remove(base), case.adapters)
    });
    with_base.collect()
}

fn with_adapters(options: &LoadOptions, trained: &[Trained]) -> LoadOptions {
    let open =
        |trained: &Trained| Adapter::open(&trained.folder, &golden(&trained.folder)).unwrap();
    LoadOptions { adapters: trained.iter().map(open).collect(), ..options.clone() }
}

fn longest(prompts: &[Probe]) -> &Probe {
    prompts.last().unwrap()
}

#[test]
fn every_adapter_computes_what_peft_does() {
    for (case, trained) in adapted_cases() {
        for device in DEVICES {
            let mut runner = case.runner(&with_adapters(&options(device), &trained));
            for (adapter, trained) in (0..).zip(&trained) {
                for prompt in &trained.prompts {
                    let mut sequence = Sequence::adapted(&prompt.prompt_ids, adapter);
                    let logits = runner.catch_up(&mut sequence);
                    check_logits(&case, device, &logits, &prompt.logits);
                    check_greedy(&case, &mut runner, &mut sequence, prompt, logits);
                    runner.free(sequence);
                }
            }
            // The model without any is as it was.
            let prompt = longest(&case.prompts);
            let logits = runner.catch_up(&mut Sequence::new(&prompt.prompt_ids));
            check_logits(&case, device, &logits, &prompt.logits);
        }
    }
}

/// Each adapter, and none, with a prompt of its own.
fn sequences(case: &Case, trained: &[Trained]) -> Vec<Sequence> {
    let own = (0..).zip(trained).map(|(adapter, trained)| {
        Sequence::adapted(&longest(&trained.prompts).prompt_ids, adapter)
    });
    let none = Sequence::adapted(&longest(&case.prompts).prompt_ids, NO_ADAPTER);
    // The same adapter twice, in places apart.
    let again = Sequence::adapted(&longest(&case.prompts).prompt_ids, 0);
    own.chain([none, again]).collect()
}

/// Computes the sequences in so many tokens a step, all together or one after the other, and then three tokens more each.
fn run(runner: &mut Runner, sequences: Vec<Sequence>, is_together: bool) -> Vec<Vec<f32>> {
    let groups: Vec<Vec<Sequence>> = if is_together {
        vec![sequences]
    } else {
        sequences.into_iter().map(|sequence| vec![sequence]).collect()
    };
    let mut all = Vec::new();
    for mut group in groups {
        for step in 0..5 {
            // Another order each time, so that a graph that is replayed finds other adapters in its rows.
            group.rotate_left(1);
            let parts = group.iter_mut().map(|sequence| {
                let chunk = if step == 0 { 23 } else { usize::MAX };
                let count = sequence.num_missing().min(chunk);
                (sequence, count)
            });
            let mut logits = runner.step(&mut parts.collect::<Vec<_>>());
            if step == 4 {
                let num_turns = (step as usize + 1) % logits.len();
                logits.rotate_right(num_turns);
                all.extend(logits);
            } else if step > 0 {
                for sequence in &mut group {
                    sequence.tokens.push(7 + step);
                }
            }
        }
        for sequence in group {
            runner.free(sequence);
        }
    }
    all
}

#[test]
fn a_batch_of_several_adapters_equals_each_alone_to_the_bit() {
    for (case, trained) in adapted_cases() {
        let options = options(Device::Cpu);
        let mut runner = case.runner(&with_adapters(&options, &trained));
        let together = run(&mut runner, sequences(&case, &trained), true);
        let apart = run(&mut runner, sequences(&case, &trained), false);
        assert!(together == apart, "{}", case.name);
        // A model that was loaded with one of them knows no difference.
        for (index, trained) in trained.iter().enumerate() {
            let one = std::slice::from_ref(trained);
            let mut alone = case.runner(&with_adapters(&options, one));
            let sequence = Sequence::adapted(&longest(&trained.prompts).prompt_ids, 0);
            let own = run(&mut alone, vec![sequence], false);
            assert!(own[0] == together[index], "{}: {}", case.name, trained.folder);
        }
    }
}

#[test]
fn a_model_with_adapters_that_nobody_asks_for_is_the_plain_one_to_the_bit() {
    for (case, trained) in adapted_cases() {
        let prompt = &longest(&case.prompts).prompt_ids;
        let logits = |options: &LoadOptions| {
            let mut runner = case.runner(options);
            run(&mut runner, vec![Sequence::new(prompt)], true)
        };
        let plain = options(Device::Cpu);
        assert!(logits(&plain) == logits(&with_adapters(&plain, &trained)), "{}", case.name);
    }
}

#[test]
fn two_ranks_with_adapters_compute_what_peft_does() {
    let mut num_cut = 0;
    for (case, trained) in adapted_cases() {
        if rank_spec(&case.spec(), 2).is_err() {
            continue;
        }
        num_cut += 1;
        let options = LoadOptions { tensor_parallel_size: 2, ..options(Device::Cpu) };
        let mut runner = case.runner(&with_adapters(&options, &trained));
        for (adapter, trained) in (0..).zip(&trained) {
            let prompt = longest(&trained.prompts);
            let mut sequence = Sequence::adapted(&prompt.prompt_ids, adapter);
            let logits = runner.catch_up(&mut sequence);
            check_logits(&case, Device::Cpu, &logits, &prompt.logits);
            check_greedy(&case, &mut runner, &mut sequence, prompt, logits);
        }
    }
    assert!(num_cut >= 3, "{num_cut} cases were cut");
}

/// Files of Llama's form have the rows of heads in another order, which adapters do not.
#[test]
fn adapters_of_a_gguf_file_give_the_very_logits_of_safetensors() {
    for (case, trained) in adapted_cases() {
        let (_, architecture, window) =
            gguf_families::ROWS.into_iter().find(|(name, ..)| *name == case.name).unwrap();
        let spec = DecoderSpec { windows: vec![window; case.spec().num_layers], ..case.spec() };
        let folder = Folder::new(&format!("adapted-gguf-{}", case.name));
        let file = gguf_families::converted(&case, &spec, architecture).finish();
        fs::write(folder.join("model.gguf"), file).unwrap();
        let options = with_adapters(&options(Device::Cpu), &trained);
        let weights = Weights::from_bytes("base", case.bytes()).unwrap();
        let models = [
            load_weights(spec, &weights, &options, &mut |_| {}).unwrap(),
            load(Source::Directory(&folder), &options, &mut |_| {}).unwrap(),
        ];
        let [expected, found] =
            models.map(|model| run(&mut Runner::new(model), sequences(&case, &trained), true));
        assert!(found == expected, "{}", case.name);
    }
}

/// All together, so that prompts pass the tiles of many tokens and decodes those of few; with graphs and without.
#[cfg(feature = "cuda-emulator")]
#[test]
fn adapters_on_the_emulated_gpu_are_close_to_peft_and_graphs_are_eager() {
    for (case, trained) in adapted_cases() {
        let logits_of = |graphs| {
            let options =
                LoadOptions { kv_dtype: KvDType::F16, graphs, ..options(Device::Emulated) };
            let options = LoadOptions { max_num_tokens: 256, ..options };
            let mut runner = case.runner(&with_adapters(&options, &trained));
            for (adapter, trained) in (0..).zip(&trained) {
                let prompt = longest(&trained.prompts);
                let logits = runner.catch_up(&mut Sequence::adapted(&prompt.prompt_ids, adapter));
                let error = kernels::selftest::rig::relative_error(&logits, &prompt.logits);
                assert!(error <= GPU_LIMIT, "{}: {error}", trained.folder);
            }
            let apart = run(&mut runner, sequences(&case, &trained), false);
            let together = run(&mut runner, sequences(&case, &trained), true);
            for (together, apart) in together.iter().zip(&apart) {
                let error = kernels::selftest::rig::relative_error(together, apart);
                assert!(error <= GPU_LIMIT, "{}: {error}", case.name);
            }
            together
        };
        assert!(logits_of(GraphMode::Captured) == logits_of(GraphMode::Eager), "{}", case.name);
    }
}

/// Returns why an adapter is refused; nothing where it is not.
fn refusal(case: &Case, folder: &Path) -> String {
    let adapter = match Adapter::open("acme", folder) {
        Ok(adapter) => adapter,
        Err(error) => return chain(&error),
    };
    let options = LoadOptions { adapters: Arc::new([adapter]), ..options(Device::Cpu) };
    let weights = Weights::from_bytes("base", case.bytes()).unwrap();
    let loaded = load_weights(case.spec(), &weights, &options, &mut |_| {});
    loaded.err().as_ref().map(chain).unwrap_or_default()
}

fn chain(error: &ModelError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A tensor's new name and the factor on its values; `None` leaves it out.
type Change<'a> = &'a dyn Fn(&str) -> Option<(String, f32)>;

/// Writes `llama-two` with this configuration and its tensors changed.
fn write_changed(folder: &Path, config: &str, change: Change<'_>) {
    fs::write(folder.join("adapter_config.json"), config).unwrap();
    let bytes = fs::read(golden("llama-two/adapter_model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in stored.tensors() {
        let Some((name, factor)) = change(&name) else { continue };
        let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let data = values.flat_map(|value| (value * factor).to_le_bytes()).collect();
        tensors.push((name, view.shape().to_vec(), data));
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_its_name() {
    let architectures = cases();
    let case = |name: &str| architectures.iter().find(|case| case.name == name).unwrap();
    let llama = case("llama");
    let folder = Folder::new("adapter");
    assert!(refusal(llama, &folder).contains("is no adapter, for it has no adapter_config.json"));

    let config = fs::read_to_string(golden("llama-two/adapter_config.json")).unwrap();
    let write = |config: &str, change: Change<'_>| write_changed(&folder, config, change);
    let as_is = |name: &str| Some((name.to_owned(), 1.0));
    write(&config, &as_is);
    // Another model: its matrices have other names or shapes.
    let found = refusal(case("gemma"), &folder);
    assert!(
        found.starts_with("the adapter `acme`: ") && found.contains("must have shape"),
        "{found}"
    );
    let rows: [(&str, String, Change<'_>); 7] = [
        ("q_proj.lora_B.weight holds values that are no numbers", config.clone(), &|name| {
            let is_broken = name.contains("0.self_attn.q_proj.lora_B");
            Some((name.to_owned(), if is_broken { f32::NAN } else { 1.0 }))
        }),
        (
            "holds values that are no numbers",
            config.replace("\"lora_alpha\": 5", "\"lora_alpha\": 1e300"),
            &as_is,
        ),
        ("`peft_type` must be LORA", config.replace("\"LORA\"", "\"LOHA\""), &as_is),
        ("must have shape [4, 32], got [3, 32]", config.replace("\"r\": 3", "\"r\": 4"), &as_is),
        ("lora_B.weight` of shape [64, 3] is missing", config.clone(), &|name| {
            (!name.contains("0.self_attn.q_proj.lora_B")).then(|| (name.to_owned(), 1.0))
        }),
        (
            "`base_model.model.lm_head.lora_A.weight` has no place in this model (1 such)",
            config.clone(),
            &|name| {
                Some((
                    name.replace("model.layers.0.self_attn.q_proj.lora_A", "lm_head.lora_A"),
                    1.0,
                ))
                .filter(|_| !name.contains("0.self_attn.q_proj.lora_B"))
            },
        ),
        ("holds values that are no numbers", config.clone(), &|name| {
            Some((name.to_owned(), if name.contains("v_proj.lora_A") { f32::NAN } else { 1.0 }))
        }),
    ];
    for (rule, config, change) in rows {
        write(&config, change);
        let found = refusal(llama, &folder);
        assert!(found.contains(rule), "{found}\n{rule}");
        let is_read = !rule.contains("peft_type");
        assert_eq!(found.starts_with("the adapter `acme`: "), is_read, "{found}");
    }
}

#[test]
fn what_adapters_take_is_counted_before_they_are_loaded() {
    let (case, trained) =
        adapted_cases().into_iter().find(|(case, _)| case.name == "llama").unwrap();
    let weights = Weights::from_bytes("base", case.bytes()).unwrap();
    let footprint = |device, trained: &[Trained]| {
        let options = with_adapters(&options(device), trained);
        adapter_footprint(&case.spec(), &weights, &options).unwrap()
    };
    assert_eq!(footprint(Device::Cpu, &[]), AdapterFootprint::default());
    // `llama-two`: in each layer queries, keys and values, 128 rows of 32 columns, at rank 8 and 16 (3 + 3, 3 + 11).
    let gpu = footprint(Device::Emulated, &trained[1..2]);
    assert_eq!(gpu.num_bytes, 2 * (8 + 16) * (128 + 32));
    let low = 2048 * 16 * size_of::<f32>() as u64;
    assert_eq!(gpu.room_bytes, low + (128 << 20));
    let cpu = footprint(Device::Cpu, &trained[1..2]);
    // There in f32, and rows of A in sixteens.
    assert_eq!(cpu.num_bytes, 4 * (2 * 16 * 32 + (8 + 16) * 128));
    assert_eq!(cpu.room_bytes, 2048 * 4 * (32 + 16 + 128));
    // With gates and ups: twice 40 values a token, and the widest of all matrices.
    let all = footprint(Device::Cpu, &trained[..1]);
    assert_eq!(all.room_bytes, 2048 * 4 * (2 * 40 + 64 + 16 + 128));
}

#[test]
fn an_adapter_is_no_model_and_says_which_it_wants() {
    let folder = golden("llama-two");
    let error = read_spec(Source::at(&folder)).unwrap_err().to_string();
    let ending = "is an adapter, not a model: load the model that it was trained on (tiny/llama), with this as its adapter (`--adapters NAME=FOLDER`)";
    assert!(error.ends_with(ending), "{error}");
}

#[test]
fn a_step_that_names_adapters_of_a_model_without_any_is_refused() {
    let case = &cases()[0];
    let mut runner = case.runner(&options(Device::Cpu));
    let input = models::StepInput {
        token_ids: &[1],
        positions: &[0],
        slot_mapping: &[0],
        cu_seqlens_q: &[0, 1],
        context_lens: &[1],
        block_tables: &[0],
        max_blocks_per_seq: 1,
        logit_rows: &[0],
        adapters: &[0],
    };
    let error = runner.model.forward(&input).unwrap_err().to_string();
    assert_eq!(error, "the model was loaded without adapters");
}
