"""The sentences with slots that `templates` fills: telephone prompts, commands, statements."""

from __future__ import annotations

from collections.abc import Mapping
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
Marque {digit} para {office} o espere en la línea.
El número de la cuenta es {pin}.
Su clave es {pin}.
Tiene {count} mensajes nuevos.
Hay {large} libros en la biblioteca.
La reunión es el {day} {monthday} de {month}.
El tren para {place} sale el {day}.
Hola, me llamo {name} y vivo en {place}.
Llama a {name} el {day}, por favor.
¿Cuántos kilómetros hay entre {place} y {place}?
Apaga {thing}, por favor.
¿Quién ha cerrado {thing}?
{name} llegó a {place} en {month}.
El hotel tiene {large} cuartos.
Lo siento, no he entendido su respuesta.
Espere un momento, por favor.
Muchas gracias por su llamada.
El {day} hizo mucho frío en {place}.
Mi madre nació en {place} y mi padre en {place}.
{name} quiere comprar {count} limones en el mercado.
¿Dónde está la estación de {place}?
"""

_FRENCH = """
Pour joindre {office}, tapez {digit}.
Appuyez sur {digit} ou restez en ligne.
Le numéro du compte est le {pin}.
Votre code est le {pin}.
Vous avez {count} nouveaux messages.
Il y a {large} livres dans la bibliothèque.
La réunion aura lieu le {day} {monthday} {month}.
Le train pour {place} part {day} matin.
Bonjour, je m'appelle {name} et j'habite à {place}.
Appelle {name} {day}, s'il te plaît.
Combien de kilomètres y a-t-il entre {place} et {place}?
Quand est-ce que {name} revient de {place}?
Il faut réparer {thing} avant {day}.
{name} arrive à {place} en {month}.
L'hôtel compte {large} chambres.
Désolé, je n'ai pas compris votre réponse.
Un instant, s'il vous plaît.
Merci beaucoup de votre appel.
Il a fait très froid {day} à {place}.
Ma mère est née à {place} et mon père à {place}.
{name} veut acheter {count} pommes au marché.
Où se trouve la gare de {place}?
"""

_ITALIAN = """
Per {office}, premere {digit}.
Premere {digit} oppure restare in linea.
Il numero del conto è {pin}.
Il codice è {pin}.
Ci sono {count} nuovi messaggi.
Ci sono {large} libri nella biblioteca.
La riunione è {day} {monthday} {month}.
Il treno per {place} parte {day} mattina.
Buongiorno, mi chiamo {name} e abito a {place}.
Chiama {name} {day}, per favore.
Quanti chilometri ci sono tra {place} e {place}?
Quando torna {name} da {place}?
Bisogna riparare {thing} prima di {day}.
{name} arriva a {place} in {month}.
L'albergo ha {large} camere.
Mi dispiace, non ho capito la risposta.
Un momento, per favore.
Grazie mille per la chiamata.
Ieri a {place} faceva molto freddo.
Mia madre è nata a {place} e mio padre a {place}.
{name} vuole comprare {count} mele al mercato.
Dove si trova la stazione di {place}?
"""

_PORTUGUESE = """
Para falar com {office}, digite {digit}.
Digite {digit} ou aguarde na linha.
O número da conta é {pin}.
A sua senha é {pin}.
Chegaram {count} recados para {name}.
O museu tem {large} quadros.
A reunião é no dia {monthday} de {month}.
O trem para {place} parte hoje.
Bom dia, meu nome é {name} e moro em {place}.
Ligue para {name} na {day}, por favor.
Quantos quilômetros são de {place} até {place}?
Quando {name} volta de {place}?
Por favor, ligue {thing} da sala.
{name} chegou em {place} em {month}.
O hotel tem {large} quartos.
Desculpe, não entendi a sua resposta.
Um momento, por favor.
Muito obrigado pela sua ligação.
Ontem fez muito frio em {place}.
Minha mãe nasceu em {place} e meu pai em {place}.
{name} quer comprar {count} livros na loja.
Onde fica a estação de {place}?
"""

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        language: tuple(block.strip().splitlines())
        for language, block in {
            "en": _ENGLISH,
            "es": _SPANISH,
            "fr": _FRENCH,
            "it": _ITALIAN,
            "pt": _PORTUGUESE,
        }.items()
    }
)
"""Language -> its sentences, with slots in braces; capital, full stop and all."""
