#!/bin/sh
# Makes .venv-peers: the programs that benchmarks/peers.py measures beside this one, with this package (editable).
# Does nothing where it is already made. optillm asks for 35 packages, CUDA's torch among them: it gets those that its
# best-of-N and votes import. No torch: models are on the servers, which run in .venv-vllm (scripts/vllm_env.sh).
set -eu
VENV=.venv-peers
BIN=$VENV/bin
MARK="$VENV/.made-of-$(cat scripts/peers_env.sh pyproject.toml | cksum | tr -d ' ')"

if [ -f "$MARK" ]; then exit 0; fi

[ -x "$BIN/python" ] || .venv/bin/python -m venv "$VENV"
"$BIN/python" -m pip install --quiet -e ".[openai]" transformers "reasoning-gym>=0.1.25" "its_hub[lm]==1.2.0" \
  aiohttp cerebras_cloud_sdk flask httpx "math-verify[antlr4_13_2]" networkx numpy openai PyYAML requests sympy "z3-solver<=4.15.4.0"
"$BIN/python" -m pip install --quiet --no-deps "optillm==0.4.0"
"$BIN/python" -c "import its_hub.core.algorithms.beam_search, optillm.bon, optillm.plugins.majority_voting_plugin"
rm -f "$VENV"/.made-of-*
touch "$MARK"
