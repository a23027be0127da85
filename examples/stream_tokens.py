"""Stream a text with the object model: python examples/stream_tokens.py [MODEL]"""

import sys

import llamacffi

MAX_TOKENS = 24

reference = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
with llamacffi.Model(reference) as model, model.context(n_ctx=512) as context:
    chain = llamacffi.SamplingParams(temperature=0.7, seed=1).chain(model)
    decoder = llamacffi.StreamDecoder(model.vocab)
    context.decode_tokens(model.vocab.tokenize("Once upon a time"))
    for _ in range(MAX_TOKENS):
        token = chain.sample(context)
        if model.vocab.is_eog(token):
            break
        print(decoder.push(token), end="", flush=True)
        context.decode_tokens([token])
    print(decoder.finish())
