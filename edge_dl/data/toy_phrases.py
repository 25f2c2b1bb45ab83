"""English sentences with their French translations, made by hand: parts that agree whichever are put together.

A plain space stands before "?", "!" and ":": print has a narrow no-break space there, of which SentencePiece's
normalization makes a plain one.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_dl.data.sentences import Pair


def _read(block: str) -> list[Pair]:
    """Pairs of a block with an English and a French half on each line."""
    return [
        (english.strip(), french.strip()) for english, french in (row.split("|") for row in block.split("\n") if row)
    ]


# Each of these stands alone; none is cut out for the test, since their words are met nowhere else.
WRITTEN = _read("""\
Hello!|Bonjour !
Good evening!|Bonsoir !
Good night!|Bonne nuit !
Goodbye!|Au revoir !
See you tomorrow!|À demain !
See you soon!|À bientôt !
Thank you very much.|Merci beaucoup.
You're welcome.|De rien.
Excuse me.|Excusez-moi.
I'm sorry.|Je suis désolé.
Welcome!|Bienvenue !
Congratulations!|Félicitations !
Happy birthday!|Joyeux anniversaire !
Merry Christmas!|Joyeux Noël !
Happy New Year!|Bonne année !
Enjoy your meal!|Bon appétit !
Have a good trip!|Bon voyage !
Good luck!|Bonne chance !
Cheers!|À votre santé !
Help!|Au secours !
Look out!|Attention !
Be quiet!|Taisez-vous !
Come in!|Entrez !
Sit down.|Asseyez-vous.
Wait a minute.|Attendez une minute.
Let's go!|Allons-y !
Hurry up!|Dépêchez-vous !
Listen to me.|Écoutez-moi.
Look at that!|Regardez ça !
Follow me.|Suivez-moi.
Stop!|Arrêtez !
Don't worry.|Ne vous inquiétez pas.
Don't move!|Ne bougez pas !
Don't forget your keys.|N'oubliez pas vos clés.
Close the door.|Fermez la porte.
Open the window.|Ouvrez la fenêtre.
Turn left.|Tournez à gauche.
Turn right.|Tournez à droite.
Go straight on.|Allez tout droit.
Speak more slowly, please.|Parlez plus lentement, s'il vous plaît.
Can you help me?|Pouvez-vous m'aider ?
Can you repeat that?|Pouvez-vous répéter ?
Do you speak English?|Parlez-vous anglais ?
Do you understand?|Comprenez-vous ?
I don't understand.|Je ne comprends pas.
I don't know.|Je ne sais pas.
I speak a little French.|Je parle un peu français.
How are you?|Comment allez-vous ?
I'm fine, thank you.|Je vais bien, merci.
What's your name?|Comment vous appelez-vous ?
My name is Claire.|Je m'appelle Claire.
Pleased to meet you.|Enchanté.
Where do you live?|Où habitez-vous ?
I live in Lyon.|J'habite à Lyon.
Where are you from?|D'où venez-vous ?
I come from Canada.|Je viens du Canada.
How old are you?|Quel âge avez-vous ?
I'm thirty years old.|J'ai trente ans.
What time is it?|Quelle heure est-il ?
It's noon.|Il est midi.
It's midnight.|Il est minuit.
It's half past three.|Il est trois heures et demie.
It's a quarter to six.|Il est six heures moins le quart.
What day is it?|Quel jour sommes-nous ?
How much does it cost?|Combien ça coûte ?
It's too expensive.|C'est trop cher.
The bill, please.|L'addition, s'il vous plaît.
I would like a coffee, please.|Je voudrais un café, s'il vous plaît.
A glass of water, please.|Un verre d'eau, s'il vous plaît.
Where is the bathroom?|Où sont les toilettes ?
Where is the exit?|Où est la sortie ?
Where is my suitcase?|Où est ma valise ?
Is it far from here?|Est-ce loin d'ici ?
It's very close.|C'est tout près.
The train leaves at eight o'clock.|Le train part à huit heures.
The bus arrives in ten minutes.|Le bus arrive dans dix minutes.
We missed the last train.|Nous avons raté le dernier train.
I've lost my passport.|J'ai perdu mon passeport.
I need a doctor.|J'ai besoin d'un médecin.
Call the police!|Appelez la police !
I have a headache.|J'ai mal à la tête.
My tooth hurts.|J'ai mal à une dent.
I'm hungry.|J'ai faim.
I'm thirsty.|J'ai soif.
I'm cold.|J'ai froid.
I'm hot.|J'ai chaud.
I'm afraid of spiders.|J'ai peur des araignées.
You are right.|Vous avez raison.
You are wrong.|Vous avez tort.
It's my fault.|C'est ma faute.
It doesn't matter.|Ça ne fait rien.
Of course.|Bien sûr.
That's enough!|Ça suffit !
It's impossible.|C'est impossible.
It's not easy.|Ce n'est pas facile.
That's all.|C'est tout.
Why not?|Pourquoi pas ?
Who is it?|Qui est-ce ?
What is it?|Qu'est-ce que c'est ?
What are you doing?|Que faites-vous ?
What happened?|Que s'est-il passé ?
What do you think of it?|Qu'en pensez-vous ?
When does the shop open?|Quand le magasin ouvre-t-il ?
It's raining.|Il pleut.
It's snowing.|Il neige.
The weather is nice today.|Il fait beau aujourd'hui.
It was cold yesterday.|Il faisait froid hier.
It will rain tomorrow.|Il pleuvra demain.
The sun is shining.|Le soleil brille.
The wind is blowing hard.|Le vent souffle fort.
The sky is blue.|Le ciel est bleu.
The grass is green.|L'herbe est verte.
The baby is sleeping.|Le bébé dort.
The dog is barking.|Le chien aboie.
The birds are singing.|Les oiseaux chantent.
The children are playing in the garden.|Les enfants jouent dans le jardin.
My father is reading the newspaper.|Mon père lit le journal.
My mother is cooking dinner.|Ma mère prépare le dîner.
He works in a bank.|Il travaille dans une banque.
She teaches mathematics.|Elle enseigne les mathématiques.
He plays the guitar very well.|Il joue très bien de la guitare.
She sings beautifully.|Elle chante à merveille.
They live in the countryside.|Ils habitent à la campagne.
We are learning French.|Nous apprenons le français.
I get up at seven o'clock.|Je me lève à sept heures.
I take a shower every morning.|Je prends une douche tous les matins.
He drinks too much coffee.|Il boit trop de café.
She eats an apple every day.|Elle mange une pomme tous les jours.
I'm writing a letter to my aunt.|J'écris une lettre à ma tante.
I saw him yesterday.|Je l'ai vu hier.
I'll call you tomorrow.|Je vous appellerai demain.
I forgot his name.|J'ai oublié son nom.
He gave me a gift.|Il m'a donné un cadeau.
She told me a secret.|Elle m'a confié un secret.
We ate well last night.|Nous avons bien mangé hier soir.
They got married in June.|Ils se sont mariés en juin.
He broke his arm.|Il s'est cassé le bras.
She was born in Marseille.|Elle est née à Marseille.
The meeting starts at nine.|La réunion commence à neuf heures.
The museum is closed on Mondays.|Le musée est fermé le lundi.
The soup is too salty.|La soupe est trop salée.
The door is open.|La porte est ouverte.
The lift is out of order.|L'ascenseur est en panne.
My phone no longer works.|Mon téléphone ne marche plus.
The computer is too slow.|L'ordinateur est trop lent.
The network learns quickly.|Le réseau apprend vite.
The model fits into the phone.|Le modèle tient dans le téléphone.
This sentence is short.|Cette phrase est courte.
Translate this word.|Traduisez ce mot.
He never lies.|Il ne ment jamais.
Nobody knows.|Personne ne sait.
There is nothing in the box.|Il n'y a rien dans la boîte.
There are seven days in a week.|Il y a sept jours dans une semaine.
Two and two make four.|Deux et deux font quatre.
Paris is the capital of France.|Paris est la capitale de la France.
The Earth goes around the Sun.|La Terre tourne autour du Soleil.
Water boils at one hundred degrees.|L'eau bout à cent degrés.
Time flies.|Le temps passe vite.
Better late than never.|Mieux vaut tard que jamais.
Everyone makes mistakes.|Tout le monde fait des erreurs.
Practice makes perfect.|C'est en forgeant qu'on devient forgeron.
I think, therefore I am.|Je pense, donc je suis.
Long live the Republic!|Vive la République !
Once upon a time, there was a king.|Il était une fois un roi.
I have already seen this film.|J'ai déjà vu ce film.
He is older than his brother.|Il est plus âgé que son frère.
She runs faster than me.|Elle court plus vite que moi.
It's the best day of my life.|C'est le plus beau jour de ma vie.
My favourite colour is yellow.|Ma couleur préférée est le jaune.
I miss you.|Vous me manquez.
I love you.|Je vous aime.
""")

# Who loves, and what. In French what is loved in general has a definite article, also after "ne .. pas".
LIKING = _read("""\
I love {}.|J'adore {}.
I like {}.|J'aime {}.
I hate {}.|Je déteste {}.
I don't like {}.|Je n'aime pas {}.
He loves {}.|Il adore {}.
He likes {}.|Il aime {}.
She loves {}.|Elle adore {}.
She hates {}.|Elle déteste {}.
She doesn't like {}.|Elle n'aime pas {}.
We love {}.|Nous adorons {}.
We like {}.|Nous aimons {}.
They love {}.|Ils adorent {}.
They hate {}.|Ils détestent {}.
My sister loves {}.|Ma sœur adore {}.
My children like {}.|Mes enfants aiment {}.
Do you like {}?|Aimez-vous {} ?
Why do you hate {}?|Pourquoi détestez-vous {} ?
""")
LIKED = _read("""\
pizza|la pizza
deep learning|l'apprentissage profond
machine learning|l'apprentissage automatique
chocolate|le chocolat
cheese|le fromage
bread|le pain
fish|le poisson
coffee|le café
tea|le thé
Italian wine|le vin italien
French cuisine|la cuisine française
strawberries|les fraises
apples|les pommes
music|la musique
jazz|le jazz
dancing|la danse
swimming|la natation
football|le football
chess|les échecs
cats|les chats
dogs|les chiens
birds|les oiseaux
flowers|les fleurs
the sea|la mer
the mountains|la montagne
the forest|la forêt
the night|la nuit
winter|l'hiver
spring|le printemps
summer|l'été
autumn|l'automne
rain|la pluie
snow|la neige
silence|le silence
history|l'histoire
mathematics|les mathématiques
physics|la physique
poetry|la poésie
old films|les vieux films
fairy tales|les contes de fées
this city|cette ville
this song|cette chanson
this museum|ce musée
these pictures|ces tableaux
""")

# Who has, wants or finds, and one thing with a colour or a size that agrees with it.
HAVING = _read("""\
I have {}.|J'ai {}.
I want {}.|Je veux {}.
I am looking for {}.|Je cherche {}.
I see {}.|Je vois {}.
He has {}.|Il a {}.
She has {}.|Elle a {}.
She found {}.|Elle a trouvé {}.
We have {}.|Nous avons {}.
We bought {}.|Nous avons acheté {}.
They have {}.|Ils ont {}.
My brother has {}.|Mon frère a {}.
There is {}.|Il y a {}.
It's {}.|C'est {}.
Do you have {}?|Avez-vous {} ?
""")
THINGS = _read("""\
a red car|une voiture rouge
a white car|une voiture blanche
a green bicycle|un vélo vert
an old bicycle|un vieux vélo
a small dog|un petit chien
a black dog|un chien noir
a white cat|un chat blanc
a black cat|un chat noir
a big house|une grande maison
an old house|une vieille maison
a small garden|un petit jardin
a round table|une table ronde
a new chair|une nouvelle chaise
a blue chair|une chaise bleue
a grey coat|un manteau gris
a green dress|une robe verte
a white shirt|une chemise blanche
a yellow hat|un chapeau jaune
a new phone|un nouveau téléphone
a good book|un bon livre
an interesting book|un livre intéressant
a long letter|une longue lettre
a heavy suitcase|une valise lourde
a beautiful tree|un bel arbre
a beautiful picture|un beau tableau
a beautiful flower|une belle fleur
an empty bottle|une bouteille vide
a golden key|une clé dorée
""")

# Who is how: subject with the form of the adjective that agrees with it.
BEING: list[tuple[str, str, int]] = [
    ("He is", "Il est", 0),
    ("He is not", "Il n'est pas", 0),
    ("My father is", "Mon père est", 0),
    ("My brother is not", "Mon frère n'est pas", 0),
    ("The boy is", "Le garçon est", 0),
    ("The cat is", "Le chat est", 0),
    ("She is", "Elle est", 1),
    ("She is not", "Elle n'est pas", 1),
    ("My mother is", "Ma mère est", 1),
    ("My sister is not", "Ma sœur n'est pas", 1),
    ("The queen is", "La reine est", 1),
    ("They are", "Ils sont", 2),
    ("They are not", "Ils ne sont pas", 2),
    ("The children are", "Les enfants sont", 2),
    ("My parents are not", "Mes parents ne sont pas", 2),
    ("The girls are", "Les filles sont", 3),
    ("My daughters are", "Mes filles sont", 3),
]
ADJECTIVES: list[tuple[str, tuple[str, str, str, str]]] = [
    ("tired", ("fatigué", "fatiguée", "fatigués", "fatiguées")),
    ("happy", ("heureux", "heureuse", "heureux", "heureuses")),
    ("sad", ("triste", "triste", "tristes", "tristes")),
    ("sick", ("malade", "malade", "malades", "malades")),
    ("ready", ("prêt", "prête", "prêts", "prêtes")),
    ("starving", ("affamé", "affamée", "affamés", "affamées")),
    ("jealous", ("jaloux", "jalouse", "jaloux", "jalouses")),
    ("young", ("jeune", "jeune", "jeunes", "jeunes")),
    ("old", ("vieux", "vieille", "vieux", "vieilles")),
    ("small", ("petit", "petite", "petits", "petites")),
    ("tall", ("grand", "grande", "grands", "grandes")),
    ("strong", ("fort", "forte", "forts", "fortes")),
    ("clever", ("intelligent", "intelligente", "intelligents", "intelligentes")),
    ("curious", ("curieux", "curieuse", "curieux", "curieuses")),
    ("nice", ("gentil", "gentille", "gentils", "gentilles")),
    ("beautiful", ("beau", "belle", "beaux", "belles")),
    ("famous", ("célèbre", "célèbre", "célèbres", "célèbres")),
    ("late", ("en retard", "en retard", "en retard", "en retard")),
    ("very patient", ("très patient", "très patiente", "très patients", "très patientes")),
    ("too proud", ("trop fier", "trop fière", "trop fiers", "trop fières")),
]

# Who goes where, and when.
GOING = _read("""\
I am going {}.|Je vais {}.
He is going {}.|Il va {}.
She is going {}.|Elle va {}.
We are going {}.|Nous allons {}.
They are going {}.|Ils vont {}.
My parents are going {}.|Mes parents vont {}.
Are you going {}?|Allez-vous {} ?
""")
PLACES = _read("""\
to the station|à la gare
to the beach|à la plage
to the library|à la bibliothèque
to the bakery|à la boulangerie
to the market|au marché
to the cinema|au cinéma
to the theatre|au théâtre
to the restaurant|au restaurant
to the museum|au musée
to the airport|à l'aéroport
to the hospital|à l'hôpital
to the hotel|à l'hôtel
to the doctor|chez le médecin
to Paris|à Paris
to France|en France
to Italy|en Italie
to Canada|au Canada
to Japan|au Japon
to the United States|aux États-Unis
""")
TIMES = _read("""\
today|aujourd'hui
tomorrow|demain
this evening|ce soir
on Monday|lundi
next week|la semaine prochaine
""")


def composed() -> Iterator[Pair]:
    """All sentences that the parts make."""
    for frames, fillings in ((LIKING, LIKED), (HAVING, THINGS)):
        for english, french in frames:
            for filling in fillings:
                yield english.format(filling[0]), french.format(filling[1])
    for subject, sujet, form in BEING:
        for adjective, forms in ADJECTIVES:
            yield f"{subject} {adjective}.", f"{sujet} {forms[form]}."
    for english, french in GOING:
        for place, lieu in PLACES:
            for time, moment in TIMES:
                yield english.format(f"{place} {time}"), french.format(f"{lieu} {moment}")
