//! The embedded model with adapters: one engine, several at once, whatever is shared and cached.

use std::sync::Arc;

use lacuna::{completion::SamplingParams, engine::SequenceRequest};
use models::Adapter;

use crate::{ALONE, Shape, cases, request, run, start, start_with, trained::Trained};

fn adapters() -> (Vec<Trained>, Arc<[Adapter]>) {
    let trained: Vec<Trained> = [1, 2].map(Trained::new).into();
    let open = |(index, folder): (usize, &Trained)| {
        Adapter::open(format!("adapter-{index}"), folder.path()).unwrap()
    };
    let adapters = trained.iter().enumerate().map(open).collect();
    (trained, adapters)
}

/// The same prompts with each adapter and with none, side by side.
fn requests() -> Vec<SequenceRequest> {
    let cases: Vec<_> =
        cases().into_iter().filter(|case| case.prompt_ids.len() < 300).step_by(6).collect();
    let ways = cases.iter().flat_map(|case| {
        [None, Some(0), Some(1)]
            .map(|adapter| SequenceRequest { adapter, ..request(case, SamplingParams::greedy()) })
    });
    ways.collect()
}

#[tokio::test]
async fn what_an_adapter_says_depends_on_nobody_else() {
    let (_folders, adapters) = adapters();
    let requests = requests();
    let (_engine, handle) = start_with(ALONE, Arc::clone(&adapters));
    let alone = run(&handle, &requests).await;
    for ways in alone.chunks_exact(3) {
        assert!(ways[0] != ways[1] && ways[0] != ways[2] && ways[1] != ways[2], "{ways:?}");
    }
    // Who has none is answered by the plain model.
    let (_engine, plain) = start(ALONE);
    let unadapted: Vec<_> = requests.iter().step_by(3).cloned().collect();
    let expected: Vec<_> = alone.iter().step_by(3).cloned().collect();
    assert_eq!(run(&plain, &unadapted).await, expected);

    let shapes = [
        ("batched", Shape { num_seqs_max: 32, ..ALONE }),
        ("chunked", Shape { num_seqs_max: 4, num_batched_tokens_max: 23, ..ALONE }),
        ("cached", Shape { num_seqs_max: 8, has_prefix_cache: true, ..ALONE }),
    ];
    for (name, shape) in shapes {
        let (_engine, handle) = start_with(shape, Arc::clone(&adapters));
        assert_eq!(run(&handle, &requests).await, alone, "{name}");
        // Once more, from what each of them has left in the cache.
        assert_eq!(run(&handle, &requests).await, alone, "{name}, again");
        assert_eq!(handle.stats().num_cache_hit_tokens > 0, shape.has_prefix_cache);
    }
}
