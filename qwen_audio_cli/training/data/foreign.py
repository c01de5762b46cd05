"""What fills the slots of sentences that are not English, each word with what it is in English."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _same(words: str) -> dict[str, str]:
    """Names, which no language changes."""
    return {word: word for word in words.split()}


def _with(english: str, words: str) -> dict[str, str]:
    """Words in the order of their English ones; there may be more of the latter."""
    own = words.split()
    return dict(zip(own, english.split()[: len(own)], strict=True))


_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_MONTHS = "January February March April May June July August"

FOREIGN: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "es": {
            "name": _same("Ana Carlos Elena Jorge Lucía Miguel Pilar Rafael Sofía"),
            "place": _with(
                "Madrid Seville Bogotá Lima Valencia Toledo Granada",
                "Madrid Sevilla Bogotá Lima Valencia Toledo Granada",
            ),
            "office": {
                "ventas": "sales",
                "soporte técnico": "technical support",
                "facturación": "billing",
                "recepción": "reception",
            },
            "day": _with(_DAYS, "lunes martes miércoles jueves viernes sábado domingo"),
            "month": _with(_MONTHS, "enero febrero marzo abril mayo junio julio agosto"),
            "thing": {
                "la luz": "the light",
                "la radio": "the radio",
                "la puerta": "the door",
                "el televisor": "the television",
                "el horno": "the oven",
            },
        },
        "fr": {
            "name": _same("Anne Bernard Claire Denis Élise François Julie Marc Sophie"),
            "place": _with(
                "Paris Lyon Marseille Nantes Lille Bordeaux Geneva",
                "Paris Lyon Marseille Nantes Lille Bordeaux Genève",
            ),
            "office": {
                "les ventes": "sales",
                "le support technique": "technical support",
                "la facturation": "billing",
                "l'accueil": "reception",
            },
            "day": _with(_DAYS, "lundi mardi mercredi jeudi vendredi samedi dimanche"),
            "month": _with(
                "January February March April June July August October",
                "janvier février mars avril juin juillet août octobre",
            ),
            "thing": {
                "la lumière": "the light",
                "la radio": "the radio",
                "la porte": "the door",
                "le four": "the oven",
                "le chauffage": "the heating",
            },
        },
        "it": {
            "name": _same("Anna Bruno Chiara Davide Elena Franco Giulia Marco Paola"),
            "place": _with(
                "Rome Milan Naples Turin Bologna Florence Venice",
                "Roma Milano Napoli Torino Bologna Firenze Venezia",
            ),
            "office": {
                "le vendite": "sales",
                "il supporto tecnico": "technical support",
                "la reception": "reception",
            },
            "day": _with(_DAYS, "lunedì martedì mercoledì giovedì venerdì sabato domenica"),
            "month": _with(_MONTHS, "gennaio febbraio marzo aprile maggio giugno luglio"),
            "thing": {
                "la luce": "the light",
                "la radio": "the radio",
                "la porta": "the door",
                "il forno": "the oven",
                "la finestra": "the window",
            },
        },
        "pt": {
            "name": _same("Ana Bruno Carla Diego Elisa Fernando Júlia Marcos Paula"),
            "place": _with(
                "Lisbon Brasília Salvador Recife Curitiba Manaus Fortaleza",
                "Lisboa Brasília Salvador Recife Curitiba Manaus Fortaleza",
            ),
            "office": {
                "vendas": "sales",
                "suporte técnico": "technical support",
                "cobrança": "billing",
                "atendimento": "customer service",
            },
            "day": _with(_DAYS, "segunda terça quarta quinta sexta"),
            "month": _with(_MONTHS, "janeiro fevereiro março abril maio junho julho agosto"),
            "thing": {
                "a luz": "the light",
                "o rádio": "the radio",
                "a porta": "the door",
                "a televisão": "the television",
                "o forno": "the oven",
            },
        },
    }
)
"""Language -> slot -> what may fill it -> the same in English."""
