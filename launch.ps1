# Starts the page on Windows. Finds a Python; chatglm_backend\launcher does the rest. See: .\launch.ps1 --help
# Plain ASCII and PowerShell 5.1 on purpose. If scripts are blocked, start it with:
#   powershell -ExecutionPolicy Bypass -File .\launch.ps1
$ErrorActionPreference = 'Stop'
try { [Console]::OutputEncoding = New-Object System.Text.UTF8Encoding $false } catch { Write-Verbose 'no console' }
$env:PYTHONUTF8 = '1'

function Say([string] $text) { [Console]::Error.WriteLine("launch: $text") }

$root = Split-Path -Parent $MyInvocation.MyCommand.Path
if ($env:CHATGLM_VENV) { $venv = $env:CHATGLM_VENV } else { $venv = Join-Path $root '.venv' }

# A 32-bit shell on 64-bit Windows sees x86 here, and the true machine in the second variable.
$machine = $env:PROCESSOR_ARCHITECTURE
if ($env:PROCESSOR_ARCHITEW6432) { $machine = $env:PROCESSOR_ARCHITEW6432 }
if ($machine -ne 'AMD64') {
    Say "Windows on $machine is not supported: bigdl-llm has INT4 libraries for x86-64 only; start the page on such a machine and open it from here over the network."
    exit 1
}

# Prints one line: "ok", or why this Python does not count. Single quotes only: 5.1 drops double ones.
$probe = @'
import sys
v = sys.version_info
name = '%d.%d' % (v[0], v[1])
def verdict():
    if v < (3, 10) or v >= (3, 15): return 'version ' + name
    if sys.maxsize < 2 ** 32: return 'bits ' + name
    if sys.implementation.name != 'cpython': return 'kind ' + sys.implementation.name
    try:
        import ensurepip, venv
        ensurepip.version()
    except Exception:
        return 'venv ' + name
    return 'ok ' + name
print(verdict())
'@

# Get-Command reads [ and ] in a path as a pattern, so a path that is there is taken as it stands.
function Find-Program([string] $exe) {
    if ($exe -match '[\\/]' -and (Test-Path -LiteralPath $exe -PathType Leaf)) {
        return (Get-Item -LiteralPath $exe -Force).FullName
    }
    $found = Get-Command $exe -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
    if ($found) { return $found.Source }
}

function Get-Verdict([string] $exe, [string[]] $before) {
    $program = Find-Program $exe
    if (-not $program) { return 'missing' }
    $ErrorActionPreference = 'Continue'
    try { $lines = & $program @before -I -c $probe 2>$null } catch { $lines = $null }
    $last = [string] ($lines | Select-Object -Last 1)
    if ($last -match '^(ok|version|bits|kind|venv) ') { return $last }
    if ($program -like '*\WindowsApps\*') { return 'stub' }
    return 'broken'
}

function Get-Advice([string] $name, [string] $verdict) {
    $detail = $verdict.Substring($verdict.IndexOf(' ') + 1)
    $fix = 'install Python 3.12 (64-bit) from python.org, or set PYTHON to the path of one'
    if ($verdict -eq 'missing') { return "$name is not there: $fix." }
    if ($verdict -eq 'stub') { return "$name is only the Microsoft Store's placeholder: $fix." }
    if ($verdict -like 'version*') { return "$name is Python ${detail}: 3.10 to 3.14 is needed; $fix." }
    if ($verdict -like 'bits*') { return "$name is a 32-bit Python: $fix." }
    if ($verdict -like 'kind*') { return "$name is ${detail}: $fix." }
    if ($verdict -like 'venv*') { return "$name (Python $detail) cannot make environments: $fix." }
    return "$name does not run: $fix."
}

$python = $null
$before = @()
$venvPython = Join-Path $venv 'Scripts\python.exe'
$finished = (Test-Path -LiteralPath (Join-Path $venv 'chatglm-setup.json')) -and
    -not (Test-Path -LiteralPath (Join-Path $venv 'chatglm-unfinished'))
if (-not $env:PYTHON -and $finished) {
    if ((Get-Verdict $venvPython @()) -like 'ok*') { $python = $venvPython }
}
if (-not $python) {
    $candidates = @()
    if ($env:PYTHON) { $candidates += , @($env:PYTHON) }
    foreach ($version in '3.12', '3.11', '3.13', '3.10', '3.14') { $candidates += , @('py', "-$version") }
    $candidates += , @('python')
    $candidates += , @('python3')
    $reason = $null
    foreach ($candidate in $candidates) {
        $rest = @($candidate | Select-Object -Skip 1)
        $verdict = Get-Verdict $candidate[0] $rest
        if ($verdict -like 'ok*') {
            $python = Find-Program $candidate[0]
            $before = $rest
            break
        }
        $advice = Get-Advice ($candidate -join ' ') $verdict
        if ($env:PYTHON -and $candidate[0] -eq $env:PYTHON) {
            Say "PYTHON cannot be used: $advice Looking for another."
        }
        # The launcher "py" is broken for each version that is not installed: that is no news.
        $news = $verdict -ne 'missing' -and $candidate[0] -ne 'py'
        if ($news -and -not $reason) { $reason = $advice }
    }
    if (-not $python) {
        if (-not $reason) {
            $reason = 'No Python 3.10 to 3.14 was found: install Python 3.12 (64-bit) from python.org, or set PYTHON to the path of one.'
        }
        Say $reason
        exit 1
    }
}

$start = Join-Path $root 'chatglm_backend\launcher\start.py'
$ErrorActionPreference = 'Continue'
& $python @before -I -X utf8 $start @args
exit $LASTEXITCODE
