"""A judge behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from slm_benchmark.catalog.types import EndpointJudge as Entry
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.engines.reasoning import without_reasoning
from slm_benchmark.judge.protocol import CATALOGUE, Chat, JudgeIdentity, Verdict

BACKOFF_S = 1.0
"""Pause before the second try, doubled for each further one."""

LONGEST_PAUSE_S = 60
"""No pause is longer, whatever the endpoint asks for."""

_PASSING = (408, 425, 429, 500, 502, 503, 504, 529)
"""Statuses that another try may not meet."""


class EndpointJudge:
    """A model that any OpenAI-compatible endpoint serves, asked at temperature 0.

    Args:
        judge_id: Its id in config/judges.yaml.
        entry: Its entry there: see the schema ``judges``.

    Raises:
        UserError: when the environment variable that should hold the key does not.
    """

    def __init__(self, judge_id: str, entry: Entry) -> None:
        self._id, self._entry = judge_id, entry
        self._url = f"{entry['url'].rstrip('/')}/chat/completions"
        variable = entry["api_key_env"]
        self._key = None if variable is None else os.environ.get(variable, "").strip()
        if self._key == "":
            raise self._error(
                "this environment variable is not set", "api_key_env", "put the key into it"
            )
        retry = Retry(
            total=entry["retries"],
            allowed_methods=None,
            status_forcelist=_PASSING,
            raise_on_status=False,
            backoff_factor=BACKOFF_S,
            backoff_max=LONGEST_PAUSE_S,
            retry_after_max=LONGEST_PAUSE_S,
        )
        self._session = requests.Session()
        # No netrc: its entry for the host would take the place of the key.
        self._session.auth = lambda request: request
        for scheme in ("http://", "https://"):
            self._session.mount(
                scheme, HTTPAdapter(max_retries=retry, pool_maxsize=entry["parallel"])
            )

    @property
    def identity(self) -> JudgeIdentity:
        entry = self._entry
        return {
            "id": self._id,
            "kind": "endpoint",
            "model": entry["model"],
            "url": entry["url"],
            "weights_sha256": None,
            "tokenizer_sha256": None,
            "engine": None,
            "temperature": 0.0,
            "seed": entry["seed"],
            "max_tokens": entry["max_tokens"],
            "max_context_tokens": None,
        }

    def close(self) -> None:
        """End its connections."""
        self._session.close()

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Verdict]]:
        """See `Judge.ask`; as many at once as ``parallel`` says.

        After a first failure nothing more is asked; what was under way is still given.
        """
        stopped = threading.Event()

        def answer(chat: Chat) -> Verdict | None:
            return None if stopped.is_set() else self._answer(chat)

        failure: BaseException | None = None
        pool = ThreadPoolExecutor(self._entry["parallel"])
        try:
            index_of = {pool.submit(answer, chat): index for index, chat in enumerate(chats)}
            for done in as_completed(index_of):
                failed = done.exception()
                verdict = None if failed else done.result()
                if failed:
                    stopped.set()
                    failure = failure or failed
                elif verdict is not None:
                    yield index_of[done], verdict
        finally:
            stopped.set()
            pool.shutdown()
        if failure is not None:
            raise failure

    def _answer(self, chat: Chat) -> Verdict:
        entry = self._entry
        question: dict[str, Any] = {
            "model": entry["model"],
            "messages": chat,
            "temperature": 0,
            "max_tokens": entry["max_tokens"],
            "seed": entry["seed"],
        }
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        try:
            response = self._session.post(
                self._url,
                json=question,
                headers=headers,
                timeout=entry["timeout_s"],
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._fault(f"gives no answer: {error}", "check that it runs") from error
        self._check(response)
        try:
            answer = response.json()
            text = answer["choices"][0]["message"]["content"]
            # A refusal has no content: it is a verdict without a rating.
            if text is not None and not isinstance(text, str):
                raise TypeError(f"content is {type(text).__name__}, not text")
            # A judge that thinks may weigh other ratings than the one that it gives.
            verdict = without_reasoning("", text or "")
            return Verdict(verdict, _text(answer, "model"), _text(answer, "system_fingerprint"))
        except (ValueError, LookupError, TypeError) as error:
            raise self._fault(
                f"does not answer as a chat endpoint does: {type(error).__name__}: {error}",
                "check url",
            ) from error

    def _check(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        if status in (401, 403):
            raise self._error(
                f"the endpoint refuses the key (HTTP {status})",
                "api_key_env",
                "put a valid key into this environment variable, or name the one that holds it",
            )
        said = " ".join(response.text.split())[:300]
        if self._key:
            said = said.replace(self._key, "…")
        if status in _PASSING:
            raise self._fault(
                f"keeps failing (HTTP {status}): {said}", "run the same command again later"
            )
        field = "model" if status == 404 else "url"
        raise self._error(
            f"the endpoint refuses the request (HTTP {status}): {said}",
            field,
            "correct url and model, and max_tokens and seed where the endpoint has no such setting",
        )

    def _error(self, message: str, field: str, fix: str) -> UserError:
        value = dict(self._entry)[field]
        return UserError(message, file=CATALOGUE, field=f"{self._id}.{field}", value=value, fix=fix)

    def _fault(self, message: str, fix: str) -> RunEnvironmentError:
        return RunEnvironmentError(
            f"the judge's endpoint {message}",
            file=CATALOGUE,
            field=f"{self._id}.url",
            value=self._entry["url"],
            fix=f"{fix}; verdicts that were given are kept",
        )


def _text(answer: Mapping[str, Any], key: str) -> str | None:
    value = answer.get(key)
    return None if value is None else str(value)
