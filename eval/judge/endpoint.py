"""A judge behind an OpenAI-compatible endpoint: chat completions, their answers read as text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from ranklens.data.chat import Text, Turn
from ranklens.data.errors import (
    InvalidInputError,
    MissingResourceError,
    PartialError,
    UsageError,
)
from ranklens.data.extras import require
from ranklens.data.pieces import without_surrogates
from ranklens.eval.judge.parse import parse_grade
from ranklens.eval.judge.prompt import JudgePrompt
from ranklens.eval.judge.verdict import Call, Failure, Pair, Verdict

_IN_A_ROW = 5
_KEPT = 500
_CUT = ("length", "content_filter")
# What begins a control token in the common chat formats. A server may read it in a passage as
# its own; with a blank behind the first character it is text.
_CONTROL = re.compile(
    r"<(?=[|｜]|</?SYS|/?(?:s|bos|eos|pad|unk|think|(?:start|end)_of_\w+)>)|\[(?=/?[A-Z_]+\])"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to ask: base URL (``https://host/v1``), model name, limits.

    ``timeout_s`` is for one request; ``retries`` are for timeouts, lost connections, 429 and 5xx,
    spaced as the server asks up to a minute, else ever farther apart; ``most`` tokens of an answer.
    Raises UsageError for a URL that is none or holds a key.
    """

    url: str
    model: str
    concurrency: int = 4
    timeout_s: float = 60.0
    retries: int = 5
    most: int = 100

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            # A port that is no number, or a bracket that is not closed.
            usable = False
        if not usable or re.search(r"\s", self.url):
            raise UsageError(
                f"the endpoint must be a URL such as http://localhost:8000/v1, got {self.url!r}"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                "the endpoint's URL must not hold a key or a password: it is kept with the "
                "labels; put the key into an environment variable (--api-key-env)"
            )


class EndpointJudge:
    """Grades pairs by answers in words, several at once, at temperature 0.

    The key goes into requests and nowhere else. Raises MissingPrerequisiteError without the
    extra ``judge``, InvalidInputError for a key that no request can carry.
    """

    def __init__(self, endpoint: Endpoint, prompt: JudgePrompt, key: str | None = None) -> None:
        require("judge", "openai")
        from openai import OpenAI

        self.endpoint = endpoint
        self.prompt = prompt
        # What is read from a file brings its line end along.
        self._key = (key or "").strip()
        if not re.fullmatch(r"[!-~]*", self._key):
            raise InvalidInputError(
                "the API key holds a blank or a character that is not ASCII, which no request can "
                "carry; set the environment variable that --api-key-env names"
            )
        self._client = OpenAI(
            base_url=endpoint.url,
            # Servers of one's own take any; the client insists on one.
            api_key=self._key or "none",
            timeout=endpoint.timeout_s,
            max_retries=endpoint.retries,
        )

    def judge(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Verdict | Failure]]:
        """Yield pairs as their answers come: not in the order given.

        A request that fails for good is a Failure. Raises PartialError after five of these in a
        row; InvalidInputError for a key, MissingResourceError for a model that the endpoint
        refuses.
        """
        left = iter(pairs)
        asked: SimpleQueue[Pair | None] = SimpleQueue()
        answered: SimpleQueue[tuple[Pair, Verdict | Failure | Exception]] = SimpleQueue()

        def work() -> None:
            while (pair := asked.get()) is not None:
                try:
                    answered.put((pair, self._verdict(pair)))
                except Exception as error:
                    answered.put((pair, error))

        busy = failed = 0
        stop: Exception | None = None
        try:
            for pair in itertools.islice(left, self.endpoint.concurrency):
                asked.put(pair)
                busy += 1
                # Daemons: who stops the work does not wait for the answers under way.
                Thread(target=work, daemon=True).start()
            # An answer that has come before the end of the work is not lost.
            while busy and (stop is None or not answered.empty()):
                pair, result = answered.get()
                busy -= 1
                if isinstance(result, Exception):
                    stop = stop or result
                    continue
                failed = failed + 1 if isinstance(result, Failure) else 0
                if failed == _IN_A_ROW and isinstance(result, Failure):
                    stop = stop or PartialError(
                        f"{_IN_A_ROW} requests in a row failed, the last: {result.reason}"
                    )
                following = next(left, None) if stop is None else None
                if following is not None:
                    asked.put(following)
                    busy += 1
                yield pair, result
        finally:
            for _ in range(self.endpoint.concurrency):
                asked.put(None)
        if stop is not None:
            raise stop

    def _verdict(self, pair: Pair) -> Verdict | Failure:
        calls, tokens_in, tokens_out = [], 0, 0
        for name in self.prompt.calls:
            turns = self.prompt.turns(name, pair.query, pair.passage)
            answer = self._ask([{"role": turn.role, "content": _said(turn)} for turn in turns])
            if isinstance(answer, Failure):
                return Failure(answer.reason, tokens_in, tokens_out)
            grade = None
            if answer.whole:
                grade = parse_grade(answer.text, self.prompt.labels, self.prompt.answer)
            calls.append(Call(name, grade, self._hidden(answer.text)[:_KEPT]))
            tokens_in += answer.tokens_in
            tokens_out += answer.tokens_out
        return Verdict(tuple(calls), tokens_in, tokens_out)

    def _ask(self, messages: Any) -> _Answer | Failure:
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=self.endpoint.model,
                messages=messages,
                temperature=0,
                max_tokens=self.endpoint.most,
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InvalidInputError(
                f"{self.endpoint.url} refuses the API key ({self._told(error)}); set the "
                "environment variable that --api-key-env names"
            ) from None
        except openai.NotFoundError as error:
            raise MissingResourceError(
                f"{self.endpoint.url} has no model {self.endpoint.model!r} or no chat "
                f"completions ({self._told(error)})"
            ) from None
        # A body that is not JSON is a ValueError of the client's, one of brackets a RecursionError.
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            return Failure(self._told(error))
        return _read(completion)

    def _told(self, error: Exception) -> str:
        import openai

        text = str(error).strip() or type(error).__name__
        if isinstance(error, openai.APIConnectionError) and str(error.__cause__ or ""):
            # "Connection error." does not say whether it is the name, the port or the certificate.
            text = f"{text.removesuffix('.')}: {error.__cause__}"
        return self._hidden(text.splitlines()[0])[:300]

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer; ``whole``: it was not cut off, so that a 1 is no 10. Tokens not told are 0."""

    text: str
    whole: bool
    tokens_in: int
    tokens_out: int


def _read(completion: Any) -> _Answer | Failure:
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        return Failure("the response is no chat completion")
    message = getattr(choices[0], "message", None) if choices else None
    text = getattr(message, "content", None)
    usage = getattr(completion, "usage", None)
    return _Answer(
        text if isinstance(text, str) else "",
        bool(choices) and getattr(choices[0], "finish_reason", None) not in _CUT,
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
    )


def _count(usage: Any, name: str) -> int:
    found = getattr(usage, name, None)
    return found if type(found) is int and found > 0 else 0


def _said(turn: Turn) -> str:
    parts = (
        _CONTROL.sub(lambda match: match[0] + " ", without_surrogates(part.text))
        if isinstance(part, Text)
        else part
        for part in turn.parts
    )
    return "".join(parts).strip()
