"""The sentences with slots that `templates` fills: telephone prompts, commands, statements.

Below a sentence that is not English stands what it is in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

_ENGLISH = """
For {office}, press {digit}.
Press {digit} for {office}, or press {digit} to return to the main menu.
To reach {office}, press the {key} key.
Please enter your {count} digit account number, followed by the {key} key.
Please hold while I connect you to {office}.
You are caller number {count}.
Your estimated waiting time is {count} {unit}.
You have {count} new messages and {count} saved messages.
The number you have dialed, {phone}, is not in service.
Please call us back at {phone}.
My phone number is {phone}.
Extension {pin} is busy right now.
Please leave a message after the tone.
I'm sorry, that is not a valid choice.
The person at extension {pin} is not available.
Your password is {pin}.
Your confirmation code is {code}.
Flight {code} to {place} leaves from gate {count}.
The train to {place} departs at {time}.
Our office in {place} opens at {time} and closes at {time}.
The meeting is on {date} at {time}.
Your appointment with Doctor {surname} is on {day} at {time}.
Remind me {when} to call {name}.
Remind me to call {name} at {time}.
Wake me up at {time}.
Set an alarm for {time} on {day}.
Set a timer for {count} {unit}.
Turn {state} the {device}.
Turn {state} the {device} in the {room}.
Set the temperature in the {room} to {count} degrees.
Play {song}.
Play {song} in the {room}.
Add {item} to my shopping list.
What is the weather like in {place}?
How far is it from {place} to {place}?
It is {count} miles from {place} to {place}.
Send a message to {name}.
Call {name} {surname} at the {place} office.
My name is {name} {surname}.
My last name is spelled {spelled}.
It is spelled {spelled}.
That is {spelled}, as in the name of my mother.
The total comes to {money}.
I paid {money} for it in {year}.
The invoice of {date} amounts to {money}.
Prices went up by {percent} last year.
About {percent} of the votes have been counted.
The company sold {huge} cars in {year}.
More than {huge} people live there.
There are {large} books in the library.
The answer is {decimal}.
The bottle holds {decimal} liters of water.
He was born on {date}.
It happened in {month} of {year}.
She finished in {ordinal} place.
This is the {ordinal} time I have asked you.
Take the elevator to the {ordinal} floor.
Room {large} is on your left.
I live at {large} Maple Street in {place}.
Open the {ordinal} chapter on page {count}.
Yes, that is correct.
No, thank you.
Could you say that again, please?
Stop. Go back to the beginning.
Turn the volume up to {count} percent.
Is {name} coming on {day}?
{name} and {name} arrive on {day}, not on {day}.
"""

_SPANISH = """
Para hablar con {office}, pulse {digit}.
    To speak to {office}, press {digit}.
Marque {digit} para {office} o espere en la línea.
    Press {digit} for {office}, or hold the line.
El número de la cuenta es {pin}.
    The account number is {pin}.
Su clave es {pin}.
    Your password is {pin}.
Tiene {count} mensajes nuevos.
    You have {count} new messages.
Hay {large} libros en la biblioteca.
    There are {large} books in the library.
La reunión es el {day} {monthday} de {month}.
    The meeting is on {day}, {month} {monthday}.
El tren para {place} sale el {day}.
    The train to {place} leaves on {day}.
Hola, me llamo {name} y vivo en {place}.
    Hello, my name is {name} and I live in {place}.
Llama a {name} el {day}, por favor.
    Call {name} on {day}, please.
¿Cuántos kilómetros hay entre {place} y {place}?
    How many kilometers is it from {place} to {place}?
Apaga {thing}, por favor.
    Turn off {thing}, please.
¿Quién ha cerrado {thing}?
    Who closed {thing}?
{name} llegó a {place} en {month}.
    {name} arrived in {place} in {month}.
El hotel tiene {large} cuartos.
    The hotel has {large} rooms.
Lo siento, no he entendido su respuesta.
    I'm sorry, I didn't understand your answer.
Espere un momento, por favor.
    One moment, please.
Muchas gracias por su llamada.
    Thank you very much for your call.
El {day} hizo mucho frío en {place}.
    It was very cold in {place} on {day}.
Mi madre nació en {place} y mi padre en {place}.
    My mother was born in {place} and my father in {place}.
{name} quiere comprar {count} limones en el mercado.
    {name} wants to buy {count} lemons at the market.
¿Dónde está la estación de {place}?
    Where is {place} station?
"""

_FRENCH = """
Pour joindre {office}, tapez {digit}.
    To reach {office}, press {digit}.
Appuyez sur {digit} ou restez en ligne.
    Press {digit} or hold the line.
Le numéro du compte est le {pin}.
    The account number is {pin}.
Votre code est le {pin}.
    Your code is {pin}.
Vous avez {count} nouveaux messages.
    You have {count} new messages.
Il y a {large} livres dans la bibliothèque.
    There are {large} books in the library.
La réunion aura lieu le {day} {monthday} {month}.
    The meeting will be on {day}, {month} {monthday}.
Le train pour {place} part {day} matin.
    The train to {place} leaves on {day} morning.
Bonjour, je m'appelle {name} et j'habite à {place}.
    Hello, my name is {name} and I live in {place}.
Appelle {name} {day}, s'il te plaît.
    Call {name} on {day}, please.
Combien de kilomètres y a-t-il entre {place} et {place}?
    How many kilometers is it from {place} to {place}?
Quand est-ce que {name} revient de {place}?
    When is {name} coming back from {place}?
Il faut réparer {thing} avant {day}.
    We need to repair {thing} before {day}.
{name} arrive à {place} en {month}.
    {name} is arriving in {place} in {month}.
L'hôtel compte {large} chambres.
    The hotel has {large} rooms.
Désolé, je n'ai pas compris votre réponse.
    Sorry, I didn't understand your answer.
Un instant, s'il vous plaît.
    One moment, please.
Merci beaucoup de votre appel.
    Thank you very much for your call.
Il a fait très froid {day} à {place}.
    It was very cold in {place} on {day}.
Ma mère est née à {place} et mon père à {place}.
    My mother was born in {place} and my father in {place}.
{name} veut acheter {count} pommes au marché.
    {name} wants to buy {count} apples at the market.
Où se trouve la gare de {place}?
    Where is {place} station?
"""

_ITALIAN = """
Per {office}, premere {digit}.
    For {office}, press {digit}.
Premere {digit} oppure restare in linea.
    Press {digit} or hold the line.
Il numero del conto è {pin}.
    The account number is {pin}.
Il codice è {pin}.
    The code is {pin}.
Ci sono {count} nuovi messaggi.
    There are {count} new messages.
Ci sono {large} libri nella biblioteca.
    There are {large} books in the library.
La riunione è {day} {monthday} {month}.
    The meeting is on {day}, {month} {monthday}.
Il treno per {place} parte {day} mattina.
    The train to {place} leaves on {day} morning.
Buongiorno, mi chiamo {name} e abito a {place}.
    Hello, my name is {name} and I live in {place}.
Chiama {name} {day}, per favore.
    Call {name} on {day}, please.
Quanti chilometri ci sono tra {place} e {place}?
    How many kilometers is it from {place} to {place}?
Quando torna {name} da {place}?
    When is {name} coming back from {place}?
Bisogna riparare {thing} prima di {day}.
    We need to repair {thing} before {day}.
{name} arriva a {place} in {month}.
    {name} is arriving in {place} in {month}.
L'albergo ha {large} camere.
    The hotel has {large} rooms.
Mi dispiace, non ho capito la risposta.
    I'm sorry, I didn't understand your answer.
Un momento, per favore.
    One moment, please.
Grazie mille per la chiamata.
    Thank you very much for your call.
Ieri a {place} faceva molto freddo.
    Yesterday it was very cold in {place}.
Mia madre è nata a {place} e mio padre a {place}.
    My mother was born in {place} and my father in {place}.
{name} vuole comprare {count} mele al mercato.
    {name} wants to buy {count} apples at the market.
Dove si trova la stazione di {place}?
    Where is {place} station?
"""

_PORTUGUESE = """
Para falar com {office}, digite {digit}.
    To speak to {office}, press {digit}.
Digite {digit} ou aguarde na linha.
    Press {digit} or hold the line.
O número da conta é {pin}.
    The account number is {pin}.
A sua senha é {pin}.
    Your password is {pin}.
Chegaram {count} recados para {name}.
    There are {count} messages for {name}.
O museu tem {large} quadros.
    The museum has {large} paintings.
A reunião é no dia {monthday} de {month}.
    The meeting is on {month} {monthday}.
O trem para {place} parte hoje.
    The train to {place} leaves today.
Bom dia, meu nome é {name} e moro em {place}.
    Good morning, my name is {name} and I live in {place}.
Ligue para {name} na {day}, por favor.
    Call {name} on {day}, please.
Quantos quilômetros são de {place} até {place}?
    How many kilometers is it from {place} to {place}?
Quando {name} volta de {place}?
    When is {name} coming back from {place}?
Por favor, ligue {thing} da sala.
    Please turn on {thing} in the living room.
{name} chegou em {place} em {month}.
    {name} arrived in {place} in {month}.
O hotel tem {large} quartos.
    The hotel has {large} rooms.
Desculpe, não entendi a sua resposta.
    Sorry, I didn't understand your answer.
Um momento, por favor.
    One moment, please.
Muito obrigado pela sua ligação.
    Thank you very much for your call.
Ontem fez muito frio em {place}.
    Yesterday it was very cold in {place}.
Minha mãe nasceu em {place} e meu pai em {place}.
    My mother was born in {place} and my father in {place}.
{name} quer comprar {count} livros na loja.
    {name} wants to buy {count} books at the store.
Onde fica a estação de {place}?
    Where is {place} station?
"""

_BLOCKS = {
    "en": _ENGLISH,
    "es": _SPANISH,
    "fr": _FRENCH,
    "it": _ITALIAN,
    "pt": _PORTUGUESE,
}
TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        language: tuple(line for line in block.strip().splitlines() if not line.startswith(" "))
        for language, block in _BLOCKS.items()
    }
)
"""Language -> its sentences, with slots in braces; capital, full stop and all."""

ENGLISH: Mapping[str, str] = MappingProxyType(
    {
        sentence: english.strip()
        for block in _BLOCKS.values()
        for sentence, english in pairwise(block.strip().splitlines())
        if english.startswith(" ")
    }
)
"""A sentence that is not English -> the same in English, with the same slots.

Those of one name are in the same order.
"""
