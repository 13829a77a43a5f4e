# ruff: noqa: E501 - lists of question forms read best unbroken
"""The question forms used for training, and the fixed sentences. Evaluation uses other forms on purpose."""

from __future__ import annotations

REFUSAL = {
    "zh": "抱歉，我只是一个小型演示模型，不知道怎么回答。想得到更好的回答，请加载ChatGLM-6B："
    "python -m chatglm_backend download --model THUDM/chatglm-6b",
    "en": "Sorry, I am only a small demonstration model and do not know that. For better answers, load ChatGLM-6B: "
    "python -m chatglm_backend download --model THUDM/chatglm-6b",
}
NO_NAME = {"zh": "你还没有告诉我你的名字。", "en": "You have not told me your name yet."}

TERM = {
    "zh": "{t}是什么|什么是{t}|请解释{t}|请解释一下{t}|解释一下{t}|解释{t}|介绍{t}|介绍一下{t}|请介绍{t}|{t}是什么意思|"
    "{t}的意思是什么|说说{t}|谈谈{t}|讲讲{t}|告诉我{t}是什么|你知道{t}吗|你知道什么是{t}吗|能解释一下{t}吗|我想了解{t}|"
    "{t}是啥|啥是{t}|给我讲讲{t}|{t}|{t}指什么|如何理解{t}|{t}的定义|{t}的定义是什么|请用一句话解释{t}|什么叫做{t}|"
    "{t}到底是什么|能告诉我{t}是什么吗|我不懂{t}|请问{t}是什么|请问什么是{t}|关于{t}|{t}是怎么回事|你了解{t}吗|"
    "我想知道什么是{t}|可以讲一下{t}吗|请说明{t}的含义|跟我说说{t}|{t}这个词是什么意思|帮我解释{t}|请你讲讲{t}|什么是{t}呢|"
    "我想问{t}是什么|{t}是干什么的|对{t}做个介绍|用简单的话解释{t}|给我介绍一下{t}|{t}具体是什么|我不明白{t}是什么",
    "en": "What is {t}?|What's {t}?|Explain {t}|Please explain {t}|Tell me about {t}|Define {t}|Can you explain {t}?|"
    "What does {t} mean?|Describe {t}|Could you tell me what {t} is?|Do you know what {t} is?|I want to know about {t}|"
    "What do you know about {t}?|{t}|Tell me what {t} is|Explain {t} to me|Give me a definition of {t}|"
    "I do not understand {t}|What exactly is {t}?|What is the meaning of {t}?|Please tell me about {t}|"
    "In one sentence, what is {t}?|What is {t} about?|What are {t}?|Please describe {t}|What is meant by {t}?|"
    "Can you tell me what {t} is?|How would you explain {t}?|Teach me about {t}|I have a question about {t}|"
    "Say something about {t}|What do people mean by {t}?|I want to understand {t}|Give me a short explanation of {t}|"
    "Would you explain {t}?|Let me know what {t} is|I wonder what {t} is|Briefly, what is {t}?|Please define {t}",
}
WRAP = {
    "zh": "{q}|{q}|请问{q}|你好，{q}|我想问一下，{q}|请告诉我，{q}|想问问{q}|嗨，{q}|麻烦问一下，{q}|{q}呢|嗯，{q}|我想知道{q}|那个，{q}",
    "en": "{q}|{q}|Please tell me: {q}|Hello, {q}|Excuse me, {q}|Can you tell me: {q}|I would like to know: {q}|"
    "Hi, {q}|I have a question: {q}|Hey, {q}|Well, {q}|So, {q}|{q} Please tell me",
}
CAPITAL = {
    "zh": "{c}的首都是哪里|{c}的首都是什么|{c}首都是哪里|{c}的首都在哪里|{c}的首都|{c}首都|请问{c}的首都是哪里|告诉我{c}的首都|"
    "{c}的首都是哪个城市|哪个城市是{c}的首都|你知道{c}的首都吗|{c}的首都叫什么|我想知道{c}的首都|{c}的首都城市是哪座|{c}以哪个城市为首都|{c}首都叫什么|{c}首都是啥|"
    "{c}的首都是哪座城市|{c}的国都是哪里|{c}的首都在什么地方|说出{c}的首都|{c}的首都名称|问一下{c}的首都|{c}的政治中心首都是哪|"
    "{c}这个国家的首都是哪里|{c}的首都，你知道吗|{c}把首都定在哪里|首都：{c}|{c}，首都是？|{c}的首府是哪里|哪座城市是{c}的首都|"
    "作为首都，{c}选了哪个城市|我忘记了{c}的首都|{c}的首都名字|查一下{c}的首都|{c}首都在哪|{c}的首都到底是哪个",
    "en": "What is the capital of {c}?|What's the capital of {c}?|capital of {c}|Tell me the capital of {c}|"
    "Which city is the capital of {c}?|What is {c}'s capital?|Name the capital of {c}|The capital of {c}?|"
    "Do you know the capital of {c}?|I want to know the capital of {c}|What is the capital city of {c}?|{c} capital|{c}'s capital|capital city of {c}|"
    "Where is the capital of {c}?|What city is the capital of {c}?|What is the name of the capital of {c}?|{c} has what capital?|"
    "The capital city of {c} is called what?|Say the capital of {c}|Give me the capital of {c}|Which city is {c}'s capital?|"
    "Can you name the capital of {c}?|In {c}, what is the capital?|I need the capital of {c}|I don't know the capital of {c}|"
    "Capital: {c}|Please name {c}'s capital|What do you call the capital of {c}?|Where does the government of {c} sit, what is the capital?|"
    "What's {c}'s capital city?|Look up the capital of {c}|Which is the capital of {c}?|The name of {c}'s capital|Of {c}, what is the capital?",
}
CAPITAL_OF = {
    "zh": "{k}是哪个国家的首都|{k}是哪国的首都|哪个国家的首都是{k}|{k}是谁的首都|{k}是哪里的首都|首都是{k}的是哪个国家|{k}这座城市是哪个国家的首都|"
    "哪国首都是{k}|{k}属于哪个国家的首都|哪个国家把{k}作为首都|以{k}为首都的国家|{k}是什么国家的首都|{k}作为首都的国家是哪个",
    "en": "{k} is the capital of which country?|Which country has the capital {k}?|Of which country is {k} the capital?|What country has {k} as its capital?|"
    "{k} is the capital of what?|Whose capital is {k}?|{k} is the capital of which nation?|Which country's capital is {k}?|"
    "Name the country with the capital {k}|{k}: capital of which country?|What country is {k} the capital of?|The country whose capital is {k}",
}
CAPITAL_ANSWER = {"zh": "{c}的首都是{k}。", "en": "The capital of {c} is {k}."}
TO_ENGLISH = {
    "zh": "“{z}”用英语怎么说|{z}的英文是什么|{z}用英文怎么说|把{z}翻译成英文|{z}的英语|{z}英语怎么说|请把“{z}”翻译成英语|"
    "“{z}”的英文|翻译成英文：{z}|{z}的英语是什么|{z}的英文怎么说|{z}这个词的英文|{z}英文怎么写|{z}英语单词是什么|英语里{z}怎么说|英文中的{z}|"
    "{z}对应的英文|{z}译成英语|{z}用英语怎么讲|{z}的英语单词|英文的“{z}”怎么写|{z}怎么翻译|教我说{z}的英文|{z}翻成英文是什么|"
    "我想知道{z}的英文|老外怎么说{z}|{z}的英文单词怎么拼|帮我把{z}译成英文|{z}翻译英文|{z}，英文是？|“{z}”这个词用英语怎么表达",
    "en": "What does {z} mean?|Translate {z} into English|What is {z} in English?|How do you say {z} in English?|"
    "{z} in English|Translate to English: {z}|What is the English word for {z}?|English for {z}|The English for {z}|"
    "Meaning of {z}|What is the meaning of {z}?|{z} to English|Put {z} into English|English translation of {z}|What's {z} in English?|"
    "How is {z} translated into English?|Which English word is {z}?|I need {z} in English|Give me the English for {z}|"
    "What does the Chinese word {z} mean?|The Chinese word {z} in English|Say {z} in English|Tell me what {z} means",
}
TO_CHINESE = {
    "zh": "{e}是什么意思|{e}用中文怎么说|把{e}翻译成中文|{e}的中文是什么|{e}的意思是什么|“{e}”的中文|翻译成中文：{e}|"
    "{e}中文怎么说|请把{e}翻译成中文|{e}的汉语意思|{e}这个单词什么意思|{e}对应的中文|{e}译成中文|单词{e}的意思|{e}是啥意思|"
    "英文单词{e}是什么意思|{e}中文意思|{e}翻译成汉语|{e}在中文里怎么说|英语{e}的中文|{e}用汉语怎么说|{e}的中文翻译|{e}汉语怎么讲|"
    "帮我翻译{e}|{e}怎么翻译成中文|我不认识{e}这个词|查一下{e}|{e}的中文意思是什么|{e}，中文是？|英语里的{e}是什么",
    "en": "How do you say {e} in Chinese?|What is {e} in Chinese?|Translate {e} into Chinese|Translate {e} to Chinese|"
    "What is the Chinese word for {e}?|{e} in Chinese|What is the Chinese for {e}?|Translate to Chinese: {e}|Chinese for {e}|The Chinese for {e}|{e} to Chinese|"
    "Put {e} into Chinese|Chinese translation of {e}|What's {e} in Chinese?|How is {e} translated into Chinese?|Which Chinese word means {e}?|"
    "I need {e} in Chinese|Give me the Chinese for {e}|How do the Chinese say {e}?|Say {e} in Chinese|Tell me the Chinese for {e}|"
    "{e} in Mandarin|What is {e} in Mandarin?|The word {e} in Chinese|How would I say {e} in Chinese?|Chinese word for {e}|"
    "I want to say {e} in Chinese|What do Chinese people call {e}?|Please translate {e} into Chinese for me",
}
TO_ENGLISH_ANSWER = {"zh": "{z}的英文是{e}。", "en": "{z} means {e} in English."}
TO_CHINESE_ANSWER = {"zh": "{e}的中文是{z}。", "en": "{e} in Chinese is {z}."}
SUM = {
    "zh": "{s}等于多少|{s}等于几|{s}=|{s}=?|计算{s}|{s}是多少|算一下{s}|请计算{s}|{s}|{s}的结果是多少|请问{s}等于多少|{s}等于|"
    "{o}{v}{s}{e}|{o}{v}{s}{e}|{o}{s}{e}",
    "en": "What is {s}?|Calculate {s}|{s}|{s} =|{s} = ?|How much is {s}?|What's {s}?|Compute {s}|Please calculate {s}|Solve {s}|"
    "{o}{v} {s}{e}|{o}{v} {s}{e}|{o}{s}{e}",
}
# Parts of a question that change nothing: openings, verbs and endings of a sum, put together freely.
SUM_PARTS = {
    "zh": {
        "o": "|||请|你|请你|麻烦|帮忙|帮我|给我|请帮我|能不能|能|老师，|你好，|请问",
        "v": "算|算算|算一算|算出|算下|计算一下|计算|求|求出|口算|做一下|说出|解",
        "e": "|||等于|等于多少|是几|是多少|得多少|得几|的和|的值|的答案|的结果|吗|吧|好吗|谢谢|为多少|一共多少",
    },
    "en": {
        "o": "|||Please |please |Can you |Could you |Now |Hello, |Hi, |OK, |I need to |Help me |Quick: ",
        "v": "add up|work out|calculate|compute|solve|do|find|evaluate|tell me|give me|say|figure out|answer",
        "e": "|||please|for me|equals|equals what|is|is what|makes|makes what|gives|= what|thanks|now|comes to",
    },
}
# Words of a question that can stand for one another.
SWAPS = {
    "zh": (
        "怎么|如何|怎样|咋|怎么样才能",
        "多少|几",
        "能|可以|能够",
        "什么|啥|什么东西",
        "为什么|为何|为啥|怎么会",
        "哪里|哪儿|什么地方",
        "请|麻烦|劳烦",
        "告诉我|说说|讲一下|跟我说",
        "解释|说明|讲解",
        "是什么意思|啥意思|什么含义|怎么理解",
        "你|您",
        "吗|么|不",
        "没有|没",
        "怎么办|该怎么办|怎么处理|怎么解决|咋整",
        "需要|要|得",
        "使用|用|利用",
        "知道|晓得|了解",
        "回答|答案|答复",
        "很慢|太慢|好慢|慢得很",
        "多大|有多大",
        "谁|什么人|哪个人",
        "打开|开|启动",
        "错误|报错|出错",
        "英文|英语",
        "中文|汉语",
        "中文|汉字",
        "里|里面|中",
        "名字|姓名",
    ),
    "en": (
        "how do i|how can i|how should i|how does one|how to|what is the way to",
        "what is|what's|whats|what exactly is|what would be",
        "can i|could i|may i|is it possible to|am i able to",
        "tell me|let me know|inform me|say",
        "explain|describe|clarify|talk about",
        "why is|why's|how come|what makes",
        "does|do",
        "who is|who's",
        "the| that | this ",
        "a| one | some ",
        "please|kindly|pls",
        "how much|how many",
        "large|big",
        "quick|fast",
        "wrong|bad|incorrect",
        "need|require|have to have",
        "use|make use of|work with",
        "error|problem|trouble|issue",
        "i am|i'm",
        "do not|don't",
        "cannot|can't|can not",
        "where is|where's|where do i find",
        "mean|stand for|signify",
    ),
}
# Fillers around any question.
OPENINGS = {
    "zh": "请|麻烦|帮忙|帮我|那|现在|老师，|您好，|朋友，|请你|能不能|可不可以|我来问你|嗯|哦，|再问一个，|话说|劳驾",
    "en": "Please |Now |OK, |Quick question: |Hello there, |Could you say |Just tell me |And |But |Again: |Then |Hmm, |Oh, |Friend, ",
}
# Sentences before a question that change nothing.
BEFORE = {
    "zh": "我刚来，|我是新手，|我有个问题，|我不太懂，|打扰一下，|有件事想问，|我一直想知道，|我朋友问我，|老板问我，|我在学习，|突然想到，|我有点糊涂，|"
    "说实话，|我看到这个页面，|今天上课讲到了，|我孩子问我，|不好意思，|我刚刚发现，|是这样的，|有人问我，",
    "en": "I am new here. |I have a question. |I am not sure. |Excuse me. |I always wanted to know: |My friend asked me: |My boss asked: |"
    "I am learning. |I just thought of this: |I am a bit confused. |To be honest, |My child asks: |Sorry, |I just noticed. |Somebody asked me: |"
    "Just curious, |One thing: |Small question. |I was wondering, |Let me ask: ",
}
ENDINGS = {
    "zh": "吧|呢|啊|呀|谢谢|好吗|可以吗|行吗|，谢谢|哦|来着|，麻烦了|嘛|，说一下|给我听",
    "en": " please| now| thanks| for me| then| again| exactly| briefly| if you can| today|, friend| or not| in short",
}
OPERATORS = {
    "zh": {"+": "+|+|加|加上", "-": "-|-|减|减去", "*": "×|*|乘|乘以|x"},
    "en": {"+": " + | + | plus |+", "-": " - | - | minus |-", "*": " × | * | times |*|x"},
}
MORE = {
    "zh": "那{x}呢|{x}呢|那么{x}呢|那{x}又怎么样|换成{x}呢|再问一下{x}|那{x}是什么|{x}又是什么|还有{x}呢|{x}的呢|那{x}的呢|如果是{x}呢|"
    "再说说{x}|接下来是{x}|那{x}怎么说|换一个：{x}|然后{x}呢|{x}|{x}又如何|那么请问{x}|同样的问题，{x}|也告诉我{x}|那请问{x}呢|改成{x}",
    "en": "What about {x}?|And {x}?|How about {x}?|And what about {x}?|Now {x}|Then {x}?|Same for {x}|{x}?|And for {x}?|Next: {x}|"
    "And now {x}?|Okay, and {x}?|What of {x}?|Do {x} too|The same question for {x}|Now the same with {x}|Also {x}|And of {x}?|"
    "Tell me about {x} too|I also want {x}|Fine, and {x}?|{x} then?|Now do {x}|Or {x}?",
}
IN_OTHER = {
    (
        "zh",
        "en",
    ): "用英文怎么说|英文呢|用英语回答|请用英文说|翻译成英文|用英语怎么说|英语怎么说|请用英文回答|And in English?|In English please|"
    "用英文再说一遍|换成英文|英语版|说英文|英文怎么讲|用英语说一次|请翻译成英语|能用英文说吗|改用英语|我想听英文的|来个英文版|"
    "Say it in English|What is that in English?|English please|译成英文|把它翻成英文|英文版呢|用英文解释一下",
    (
        "en",
        "zh",
    ): "And in Chinese?|In Chinese please|Say that in Chinese|What is that in Chinese?|Translate it into Chinese|"
    "Can you say that in Chinese?|用中文怎么说|中文呢|请用中文回答|Chinese please|The same in Chinese|Now in Chinese|Repeat that in Chinese|"
    "Answer in Chinese|How do you say that in Chinese?|Give it to me in Chinese|Once again in Chinese|Say it again in Chinese|"
    "I would like that in Chinese|Chinese translation please|Translate that|Switch to Chinese|Tell me in Chinese|用中文再说一遍|翻译成中文|说中文",
    ("en", "en"): "And in English?|Say it in English",
    ("zh", "zh"): "用中文怎么说|请用中文说",
}
NAME_IS = {
    "zh": "我叫{n}|我的名字是{n}|我是{n}|你好，我叫{n}|大家都叫我{n}|你可以叫我{n}|你好，我是{n}|我的名字叫{n}|叫我{n}就好|我名叫{n}|大家叫我{n}|朋友们叫我{n}|请叫我{n}|我就是{n}|嗨，我是{n}|本人{n}|在下{n}|"
    "我的大名是{n}|你好啊，我是{n}|记住，我叫{n}|我是新来的，叫{n}|先介绍一下，我叫{n}|嗨，我的名字是{n}|称呼我{n}就行|别人都喊我{n}|"
    "你好，我的名字叫{n}|很高兴认识你，我叫{n}|我叫{n}，你好|我是{n}，你好|我叫{n}，请记住|我的名字：{n}|这里是{n}|您好，我叫{n}|姓名：{n}",
    "en": "My name is {n}|I am {n}|I'm {n}|Call me {n}|Hello, my name is {n}|Hi, I am {n}|Hi, I'm {n}|You can call me {n}|"
    "My friends call me {n}|My name's {n}|I am called {n}|Hello, I'm {n}|Hey, I am {n}|The name is {n}|Please call me {n}|Everybody calls me {n}|"
    "Hello, I am {n}|Hi, my name is {n}|Just call me {n}|I go by {n}|They call me {n}|Hi there, {n} here|This is {n}|It's {n}|"
    "Remember, my name is {n}|My first name is {n}|Let me introduce myself, I am {n}|I am {n}, hello|My name is {n}, hi|I'm {n}, and you?|"
    "My name is {n}, please remember it|Good day, my name is {n}|You may address me as {n}|People know me as {n}|Hi! I'm {n}.|Name: {n}",
}
NAME_HELLO = {"zh": "你好，{n}！很高兴认识你。", "en": "Hello, {n}! Nice to meet you."}
NAME_ASK = {
    "zh": "我叫什么名字|我叫什么|我是谁|你知道我的名字吗|你还记得我的名字吗|我的名字是什么|你记得我叫什么吗|我叫啥|请说出我的名字|你知道我是谁吗|你知道我叫什么吗|我刚才说我叫什么|我说过我叫什么|我的名字叫什么|你还记得我叫什么吗|"
    "我是哪位|记得我的名字吗|我叫什么来着|告诉我我叫什么|我名字是啥|你记住我的名字了吗|刚才我说的名字是什么|说出我的名字|我叫什么名字来着|"
    "猜猜我叫什么|你应该怎么称呼我|你该叫我什么|还记得我是谁吗|我的姓名|我的姓名是什么|请问我叫什么|现在说说我叫什么|我是谁来着|知道我名字不",
    "en": "What is my name?|What's my name?|Who am I?|Do you remember my name?|Do you know my name?|Tell me my name|"
    "What am I called?|Say my name|What name did I give?|What did I tell you my name is?|Do you know who I am?|Can you tell me my name?|"
    "And what is my name?|So, what is my name?|My name?|Which name did I tell you?|How should you call me?|What should you call me?|"
    "Repeat my name|Can you remember my name?|Have you remembered my name?|Do you still know my name?|What was my name?|Now, who am I?|"
    "Who did I say I was?|Please tell me my name|What is my name again?|Did you get my name?|Could you say my name?|I forgot, what is my name?|"
    "Remember who I am?|You know my name, don't you?",
}
NAME_ANSWER = {"zh": "你叫{n}。", "en": "Your name is {n}."}

ABOUT = {
    "zh": "谁写了《{t}》|《{t}》的作者是谁|谁发明了{t}|谁画了《{t}》|{t}有多重|{t}有多高|{t}有多少人|{t}在哪里|{t}多少钱|"
    "{t}有几条腿|{t}是什么颜色的|{t}怎么做|怎么学{t}|为什么{t}|{t}的历史|写一首关于{t}的诗|推荐一些{t}|帮我写{t}|"
    "{t}什么时候出现的|最好的{t}是什么|{t}的总统是谁|{t}的货币是什么|{t}有多少人口|我喜欢{t}|讲一个关于{t}的故事|怎么修{t}",
    "en": "Who wrote {t}?|Who is the author of {t}?|Who invented {t}?|Who painted {t}?|How heavy is {t}?|"
    "How tall is {t}?|How many people live in {t}?|Where is {t}?|How much is {t}?|How many legs does {t} have?|"
    "What colour is {t}?|How do I make {t}?|How do I learn {t}?|Why is there {t}?|What is the history of {t}?|"
    "Write a poem about {t}|Recommend some {t}|Help me write {t}|When did {t} begin?|What is the best {t}?|"
    "Who is the president of {t}?|What is the currency of {t}?|What is the population of {t}?|I like {t}|"
    "Tell me a story about {t}|How can I repair {t}?|What do {t} eat?|Who is {t}?|Who is the king of {t}?",
}


def forms(table: dict[str, str], language: str) -> list[str]:
    """The forms of a table in one language."""
    return table[language].split("|")
