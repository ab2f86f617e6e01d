"""The detection of files that hold a secret: private keys, environment files and tokens, by name and content."""

import re
from fnmatch import fnmatch
from pathlib import PurePath

# By kind of file. Names are compared in lower case; a module (`*.py`) is judged by its content alone.
SECRET_FILE_NAMES = {
    "a private key": ("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "identity", "*.ppk", "*.key"),
    "a certificate, perhaps with its key": ("*.pem", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.p8"),
    "an environment file": ("*.env", ".env*", "*.env.*", ".envrc"),
    "a file of passwords or tokens": (
        *(".netrc", "_netrc", ".pgpass", "pgpass*", ".npmrc", ".pypirc", ".git-credentials", ".htpasswd", "*.kdbx"),
        *("credentials", "credentials.json", "kubeconfig", "*.kubeconfig", "auth_token", "*.token", ".dockercfg"),
    ),
}
HARMLESS_FILE_NAMES = ("*.pub", "*.example", "*.sample", "*.template")

TOKEN_PATTERNS = {
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d",
    "an access key of AWS": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": rb"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{50}",
    "a token of GitLab": rb"\bglpat-[A-Za-z0-9_-]{20}",
    "a token of Slack": rb"\bxox[abeprs]-[A-Za-z0-9-]{20}|hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/\w+",
    "a key of Google": rb"\bAIza[A-Za-z0-9_-]{35}|\bGOCSPX-[A-Za-z0-9_-]{28}",
    "a key of Anthropic or OpenAI": rb"\bsk-(?:ant-|proj-|svcacct-)[A-Za-z0-9_-]{32}|\bsk-[A-Za-z0-9]{48}\b",
    "a token of Hugging Face": rb"\bhf_[A-Za-z0-9]{34}",
    "a token of a package index": rb"\bnpm_[A-Za-z0-9]{36}|\bpypi-AgE[A-Za-z0-9_-]{50}",
    "a key of Stripe": rb"\b[rs]k_live_[A-Za-z0-9]{24}",
    "a token of Databricks": rb"\bdapi[0-9a-f]{32}\b",
    "a key of SendGrid": rb"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "a token of DigitalOcean": rb"\bdo[opr]_v1_[0-9a-f]{64}",
    "a key of Azure storage": rb"AccountKey=[A-Za-z0-9+/]{86}==",
    "a JSON web token": rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20}",
}
_ANY_TOKEN = re.compile(b"|".join(b"(%s)" % pattern for pattern in TOKEN_PATTERNS.values()))
_PASSWORD_PATTERN = re.compile(r"://[^/\s@]*:[^/\s@$]+@")  # $ begins the name of a variable, which pip reads there
BINARY_PREFIX_BYTES = 8192  # a file with a zero byte among its first bytes is no text


def find_secret(path: PurePath, content: bytes) -> str | None:
    """Return the secret that a file holds, as the end of a sentence that begins with its name; None where it has none.

    Args:
        path: The path of the file; only its name is examined.
        content: Its content; it is not searched where the file is no text, unless it is a module.
    """
    name, is_module = path.name.lower(), path.suffix.lower() == ".py"
    if not is_module and not any(fnmatch(name, pattern) for pattern in HARMLESS_FILE_NAMES):
        for kind, patterns in SECRET_FILE_NAMES.items():
            if any(fnmatch(name, pattern) for pattern in patterns):
                return f"is named like {kind}"
    if b"\0" in content[:BINARY_PREFIX_BYTES] and not is_module:
        return None
    if token := _ANY_TOKEN.search(content):
        line = content.count(b"\n", 0, token.start()) + 1
        kind = [*TOKEN_PATTERNS][int(token.lastindex or 1) - 1]
        return f"holds {kind} in line {line}"
    return None


def has_password(requirement: str) -> bool:
    """Return whether a requirement of pip has a password, or a token of a known format, in its address."""
    return bool(_PASSWORD_PATTERN.search(requirement) or _ANY_TOKEN.search(requirement.encode()))
